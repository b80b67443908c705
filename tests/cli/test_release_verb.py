"""`reticent release`, as a user calls it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("opendp")

from reticent.cli import app
from reticent.cli.frame import call


@pytest.fixture
def people(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RETICENT_LEDGER", str(tmp_path / "budget.db"))
    path = tmp_path / "people.csv"
    rows = [f"{20 + number % 50},{'FM'[number % 2]}" for number in range(500)]
    path.write_text("\n".join(["age,sex", *rows]) + "\n")
    assert call(app, ["budget", "grant", str(path), "--epsilon", "2", "--delta", "1e-6"]) == 0
    return path


def ask(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict[str, Any]]:
    capsys.readouterr()
    code = call(app, ["release", *map(str, arguments), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_a_query_its_guarantee_and_what_is_left(
    people: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, told = ask(capsys, people, "--query", "mean(age, 0, 100)", "--epsilon", "0.5")
    assert code == 0
    assert told["answer"]["value"] == pytest.approx(44.5, abs=10)
    assert told["answer"]["noise"] == "discrete Laplace"
    strength = told["guarantee"]["strength"]
    assert (strength["epsilon"], strength["delta"]) == (0.5, 0.0)
    assert strength["neighboring_relation"] == "add or remove one"
    assert told["left"][0]["spent_epsilon"] == 0.5
    assert told["ledger"]["charge"] == "c-3"
    code, told = ask(capsys, people, "--query", "count() where sex = F", "--rho", "0.01")
    assert code == 0
    assert told["guarantee"]["strength"]["delta"] == 1e-6


def test_reports_are_written_and_told_of(
    people: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    options = ("--local", "oue", "--column", "sex", "--categories", "F,M", "--epsilon", "1")
    code, told = ask(capsys, people, *options, "--out", out)
    assert code == 0
    assert (told["reports"], told["epsilon_per_report"]) == (500, 1.0)
    with np.load(out / "reports.npz", allow_pickle=False) as arrays:
        assert arrays["reports"].shape == (500, 1)
    assert json.loads((out / "release.json").read_text()) == told
    assert told["left"][0]["spent_epsilon"] == 1.0
    numeric = ("--local", "hybrid", "--column", "age", "--lower", "0", "--upper", "100")
    code, told = ask(capsys, people, *numeric, "--epsilon", "0.5")
    assert code == 0
    assert 0 < told["estimate"]["standard_error"] < 20


def test_text_is_for_people_and_progress_for_standard_error(
    people: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, parts in (
        (("--query", "histogram(sex, [F, M])"), ("F: ", "(other): ", "standard error")),
        (("--query", "top(1, sex, [F, M])"), ("add or remove one record",)),
        (("--query", "quantile(age, 0.5, 0, 100)"), ("Quantile by OpenDP",)),
        (
            ("--local", "response", "--column", "sex", "--categories", "F,M"),
            ("500 reports by response", "replace one record"),
        ),
        (
            ("--local", "duchi", "--column", "age", "--lower", "0", "--upper", "99"),
            ("mean ", "+-"),
        ),
    ):
        capsys.readouterr()
        assert call(app, ["release", str(people), *arguments, "--epsilon", "0.1"]) == 0
        told = capsys.readouterr()
        assert all(part in told.out for part in (*parts, "guarantee: ", "budget: epsilon"))
        assert "..." in told.err
        assert "..." not in told.out


def test_over_the_cap_is_exit_four(people: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, told = ask(capsys, people, "--query", "count()", "--epsilon", "2.5")
    assert (code, told["error"]["type"]) == (4, "BudgetExhaustedError")
    assert call(app, ["budget", "show", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["blocks"][0]["spent_epsilon"] == 0


def test_an_experiment_says_that_it_is_void(
    people: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--local", "olh", "--column", "sex", "--categories", "F,M", "--epsilon", "1")
    code, told = ask(capsys, people, *options, "--experiment", "--seed", "5")
    assert code == 0
    assert told["guarantee"].startswith("none: a seed")
    assert told["ledger"] is None
    capsys.readouterr()
    call(app, ["release", str(people), *options, "--experiment", "--seed", "5", "--quiet"])
    shown = capsys.readouterr()
    assert "guarantee: none" in shown.out
    assert "warning: guarantee: none" in shown.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "one of --query and --local"),
        (("--query", "count()", "--local", "oue"), "one of --query and --local"),
        (("--query", "count()"), "one of epsilon > 0 and rho > 0"),
        (("--query", "count()", "--epsilon", "-1"), "one of epsilon > 0"),
        (("--query", "mean(age, 5, 0)", "--epsilon", "1"), "lower < upper"),
        (("--query", "mean(years, 0, 9)", "--epsilon", "1"), "column='years'"),
        (("--query", "count()", "--epsilon", "1", "--categories", "a"), "no --categories"),
        (("--query", "count()", "--epsilon", "1", "--seed", "3"), "no seed for a release"),
        (("--query", "count()", "--epsilon", "1", "--experiment"), "no --experiment"),
        (("--local", "oue", "--epsilon", "1"), "--column with --local"),
        (("--local", "oue", "--column", "sex"), "--epsilon with --local"),
        (("--local", "oue", "--column", "sex", "--epsilon", "1"), "categories alone"),
        (
            ("--local", "duchi", "--column", "age", "--epsilon", "1", "--lower", "1"),
            "--lower and --upper together",
        ),
        (("--local", "oue", "--column", "sex", "--epsilon", "1", "--rho", "1"), "no --rho"),
        (("--query", "count()", "--epsilon", "1", "--user", "id"), "Leave user out"),
    ],
)
def test_mistakes_are_refused_with_exit_two(
    people: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], message: str
) -> None:
    code, told = ask(capsys, people, *options)
    assert code == 2
    assert message in told["error"]["message"]
    call(app, ["budget", "show", "--json"])
    assert json.loads(capsys.readouterr().out)["blocks"][0]["spent_epsilon"] == 0


def test_a_table_without_a_budget_is_told_how_to_get_one(
    people: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    other = tmp_path / "other.csv"
    other.write_text("age\n3\n")
    code, told = ask(capsys, other, "--query", "count()", "--epsilon", "0.1")
    assert code == 2
    assert "reticent budget grant" in told["error"]["message"]
    code, _ = ask(
        capsys, people, "--query", "count()", "--epsilon", "1", "--ledger", tmp_path / "no.db"
    )
    assert code == 2
