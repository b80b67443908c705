"""`reticent budget`: grant, show, history, verify, as a user calls them."""

from __future__ import annotations

import json
import sqlite3
import stat
from pathlib import Path

import numpy as np
import pytest

from reticent.cli import app, frame
from reticent.cli.frame import Session, call
from reticent.errors import BudgetExhaustedError
from reticent.privacy.ledger import Ledger, pure_dp
from reticent.privacy.ledger.files import file_digests

TERMS = ("--epsilon", "1", "--delta", "1e-5")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RETICENT_LEDGER", str(tmp_path / "budget.db"))
    (tmp_path / "people.csv").write_text("id,age\nann,30\nann,31\nbob,40\n")
    return tmp_path


def ask(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict[str, object]]:
    """Exit code and the one JSON object of `reticent budget`."""
    capsys.readouterr()
    code = call(app, ["budget", *map(str, arguments), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_a_budget_from_grant_to_receipt(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, granted = ask(capsys, "grant", folder / "people.csv", *TERMS)
    assert code == 0
    assert granted["dataset"]["size"] == 3  # type: ignore[index]
    assert stat.S_IMODE((folder / "budget.db.key").stat().st_mode) == 0o600
    ledger = Ledger.open(folder / "budget.db")
    with ledger.spending("people", pure_dp(epsilon=0.4), key="mean"):
        pass
    code, shown = ask(capsys, "show", "people")
    assert code == 0
    assert shown["blocks"][0]["spent_epsilon"] == 0.4  # type: ignore[index]
    code, past = ask(capsys, "history")
    kinds = [entry["kind"] for entry in past["entries"]]  # type: ignore[attr-defined]
    assert (code, kinds) == (0, ["open", "grant", "reserve", "started", "committed"])
    code, sound = ask(capsys, "verify", "--public", granted["public_key"])
    assert (code, sound["entries"], sound["charges"]) == (0, 5, 1)
    assert ask(capsys, "verify", "--receipt", sound["receipt"])[0] == 0


def test_a_budget_states_its_relation_once(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    people = folder / "people.csv"
    code, made = ask(capsys, "grant", people, *TERMS, "--relation", "zero-out")
    assert code == 0
    relation = made["dataset"]["relation"]  # type: ignore[index]
    assert relation == "replace one by nothing, in its place"
    # Records don't get a second budget by another relation.
    assert call(app, ["budget", "grant", str(people), *TERMS]) == 2
    assert call(app, ["budget", "show", "--relation", "zero-out"]) == 2
    per_user = ["--user", "id", "--relation", "zero-out"]
    assert call(app, ["budget", "grant", str(people), *TERMS, *per_user]) == 2


def test_text_is_for_people(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(app, ["budget", "grant", str(folder / "people.csv"), *TERMS]) == 0
    assert "people: 3 records" in capsys.readouterr().out
    for action, part in (("show", "epsilon spent"), ("history", "grant"), ("verify", "receipt")):
        assert call(app, ["budget", action]) == 0
        assert part in capsys.readouterr().out


def test_a_renamed_reordered_copy_gets_no_new_budget(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pyarrow")
    import pyarrow
    import pyarrow.parquet as parquet

    ask(capsys, "grant", folder / "people.csv", *TERMS)
    (folder / "new.csv").write_text("years,who\n40,bob\n31,ann\n30.0,ann\n")
    table = pyarrow.table({"age": [31, 30, 40], "id": ["ann", "ann", "bob"]})
    parquet.write_table(table, folder / "new.parquet")
    np.savez(folder / "new.npz", i=np.array(["ann", "ann", "bob"]), a=np.array([30.0, 31, 40]))
    for name in ("new.csv", "new.parquet", "new.npz"):
        code, made = ask(capsys, "grant", folder / name, *TERMS)
        assert code == 0
        assert made["dataset"]["name"] == "people"  # type: ignore[index]
    _, shown = ask(capsys, "show")
    assert len(shown["blocks"]) == 1  # type: ignore[arg-type]


def test_users_are_one_unit_each(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, made = ask(capsys, "grant", folder / "people.csv", *TERMS, "--user", "id")
    assert code == 0
    assert (made["dataset"]["size"], made["dataset"]["unit"]) == (2, "user")  # type: ignore[index]
    assert [len(unit) for unit in file_digests(folder / "people.csv", user="id")] == [3, 2]


def test_a_tampered_ledger_is_exit_5(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ask(capsys, "grant", folder / "people.csv", *TERMS)
    connection = sqlite3.connect(folder / "budget.db")
    connection.execute("UPDATE block SET cap = replace(cap, '1.0', '9.0')")
    connection.commit()
    connection.close()
    code, record = ask(capsys, "verify")
    assert code == 5
    assert "table block" in record["error"]["message"]  # type: ignore[index]
    (folder / "budget.db.key").chmod(0o644)
    assert ask(capsys, "verify")[0] == 5


def test_a_verb_that_meets_the_cap_is_exit_4(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Verbs that spend let the ledger's refusal through: nothing is read, and the code is 4."""
    ask(capsys, "grant", folder / "people.csv", *TERMS)
    read = []

    def spend() -> None:
        ledger = Ledger.open(folder / "budget.db")
        with ledger.spending("people", pure_dp(epsilon=1.5), key="too much"):
            read.append("data")

    assert frame._run(Session(), spend) == BudgetExhaustedError.exit_code == 4
    assert not read


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["show"], "reticent budget grant"),
        (["spend"], "'spend'"),
        (["grant"], "Expected data"),
        (["grant", "people.csv", "--epsilon", "1"], "Expected delta"),
        (["grant", "people.csv", "--epsilon", "-1", "--delta", "0"], "epsilon=-1.0"),
        (["grant", "people.csv", *TERMS, "--unit", "user"], "--user COLUMN"),
        (["grant", "people.csv", *TERMS, "--user", "name"], "user='name'"),
        (["grant", "nothing.csv", *TERMS], "isn't there"),
        (["grant", "ragged.csv", *TERMS], "record=1"),
        (["grant", "empty.csv", *TERMS], "0 records"),
        (["grant", "notes.txt", *TERMS], "Convert it"),
        (["show", "--epsilon", "2"], "no epsilon for `budget show`"),
        (["verify", "--receipt", "12"], "isn't there"),
    ],
)
def test_bad_requests_are_exit_2_and_make_no_ledger(
    arguments: list[str],
    part: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folder)
    (folder / "ragged.csv").write_text("a,b\n1\n")
    (folder / "empty.csv").write_text("a,b\n")
    (folder / "notes.txt").write_text("hello")
    assert call(app, ["budget", *arguments]) == 2
    assert part in capsys.readouterr().err
    assert not list(folder.glob("budget.db*"))
