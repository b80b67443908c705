"""`reticent audit` on models: the suite from the command line, claims judged by the exit code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reticent.cli import app
from reticent.cli.frame import call

RECIPE = """
name = "marks"
seed = 1
[task]
data = "{data}"
[model]
name = "mlp"
options = {{ widths = [64] }}
[train]
epochs = 40
learning_rate = 0.01
[audit]
quick = true
seeds = 1
requests = [1]
"""
MODULE = """
import numpy as np
from sklearn.tree import DecisionTreeClassifier
data = np.load({path!r})
own = data["member"] == 1
tree = DecisionTreeClassifier(random_state=0).fit(data["x"][own], data["public"][own])
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with noisy records, a checkpoint trained on some of them, and a module."""
    folder = tmp_path_factory.mktemp("audit")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1500, 10)).astype(np.float32)
    public = (x[:, 0] + rng.normal(0, 1.5, len(x)) > 0).astype(int)
    group = (x[:, 1] + rng.normal(size=len(x)) > 0).astype(int)
    np.savez(folder / "marks.npz", x=x, public=public, group=group)
    member = rng.permutation(np.repeat([0, 1, 2], 500))
    np.savez(folder / "records.npz", x=x, public=public, member=member)
    (folder / "recipe.toml").write_text(RECIPE.format(data=folder / "marks.npz"))
    arguments = ["train", str(folder / "recipe.toml"), "--out", str(folder / "model"), "-q"]
    assert call(app, arguments) == 0
    (folder / "trees_of_mine.py").write_text(MODULE.format(path=str(folder / "records.npz")))
    return folder


def ask(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict[str, Any]]:
    capsys.readouterr()
    code = call(app, ["audit", *map(str, arguments), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_the_attacks_are_listed_with_pillar_and_level(capsys: pytest.CaptureFixture[str]) -> None:
    code, listed = ask(capsys, "--list")
    assert code == 0
    levels = {entry["name"]: entry["access"] for entry in listed["attacks"]}
    assert levels["membership"] == "L1"
    assert levels["stored_records"] == "L5"


def test_a_checkpoint_knows_its_own_records(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, card = ask(
        capsys, work / "model", "--attacks", "membership", "--shadows", "6",
        "--out", work / "report",
    )  # fmt: skip
    assert code == 0
    found = card["pillars"]["training data"]["findings"]
    assert {"battery", "blind", "loss"} <= {finding["attack"] for finding in found}
    assert "How strong the attacks were" in (work / "report" / "report.html").read_text()


def test_a_false_claim_about_an_object_exits_3(
    work: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(work))
    code, card = ask(
        capsys, "trees_of_mine:tree", "--data", work / "records.npz", "--access", "L3",
        "--attacks", "membership", "--shadows", "8", "--claim", "epsilon=0.1,delta=1e-5",
    )  # fmt: skip
    assert (code, card["verdict"]) == (3, "contradicted")
    assert card["pillars"]["training data"]["guarantees"][0]["status"] == "violated"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "a bundle or a model"),
        (("nothing:here",), "--data FILE"),
        (("model", "--access", "L9"), "access level"),
        (("model", "--attacks", "magic"), "attacks among"),
        (("model", "--attacks", "stored_records", "--access", "L2"), "can't run: needs access L5"),
        (("model", "--outputs", "feelings"), "logits or probabilities"),
        (("model", "--claim", "safe"), "a claim such as"),
    ],
)
def test_what_can_not_be_audited_is_refused(
    arguments: tuple[str, ...], message: str, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = ask(capsys, *(work / "model" if word == "model" else word for word in arguments))
    assert code == 2
    assert message in said["error"]["message"]


def test_a_bundle_is_attacked_as_a_client_may_ask_it(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["run", str(work / "recipe.toml"), "--out", str(work / "b"), "-q"]
    assert call(app, arguments) == 0
    code, card = ask(capsys, work / "b", "--attacks", "membership", "--access", "L2")
    assert code == 0
    found = [f for f in card["pillars"]["training data"]["findings"] if f["attack"] == "loss"]
    assert found
    assert found[0]["details"]["queries"] > 0
