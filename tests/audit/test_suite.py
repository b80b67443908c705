"""The suite: what runs, what can't, and that neither is silent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from torch import nn

from reticent.attacks.finding import Finding
from reticent.attacks.spec import Access, Labelled
from reticent.attacks.target import Victim
from reticent.audit.material import Material
from reticent.audit.suite import Entry, Settings, choose, run_suite
from reticent.errors import ConfigError, DataError
from reticent.guarantee import Pillar

RNG = np.random.default_rng(3)
X = RNG.normal(size=(80, 3)).astype(np.float32)
Y = np.arange(80) % 2
MATERIAL = Material(members=Labelled(x=X[:40], y=Y[:40]), non_members=Labelled(x=X[40:], y=Y[40:]))
VICTIM = Victim.of_module(nn.Linear(3, 2).eval(), sample=X)


def found(name: str) -> Finding:
    return Finding(
        attack=name, pillar=Pillar.TRAINING_DATA, adversary="client", target="membership",
        metric="AUC", value=0.5, ci=(0.4, 0.6), floor=0.5, excess=0.0, excess_ci=(-0.1, 0.1), n=80,
    )  # fmt: skip


def entry(name: str, access: Access = Access.LABEL, **changes: Any) -> Entry:
    def run(victim: Victim, material: Material, settings: Settings) -> Sequence[Finding]:
        return [found(name)]

    made = Entry(
        name=name, pillar=Pillar.TRAINING_DATA, access=access, says=name,
        unfit=lambda victim, material: None, run=run,
    )  # fmt: skip
    return replace(made, **changes)


def refuse(victim: Victim, material: Material, settings: Settings) -> Sequence[Finding]:
    raise DataError("too few records")


ENTRIES = (
    entry("easy"),
    entry("deep", Access.WEIGHTS),
    entry("odd", unfit=lambda victim, material: "no images"),
    entry("shy", run=refuse),
)


def run(*names: str, **changes: Any) -> Any:
    settings = Settings(**changes)
    return run_suite(VICTIM, MATERIAL, attacks=names, entries=ENTRIES, settings=settings)


def test_all_runs_what_can_run_and_says_why_the_rest_did_not() -> None:
    outcome = run("all", access=Access.SCORES)
    assert [finding.attack for finding in outcome.findings] == ["easy"]
    assert outcome.untested == {
        "deep": "needs access L5 (weights), got L2 (scores)",
        "odd": "no images",
        "shy": "refused: too few records",
    }


def test_more_access_runs_more() -> None:
    assert [f.attack for f in run("all", access=Access.WEIGHTS).findings] == ["easy", "deep"]


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("deep", ConfigError, "'deep' can't run: needs access L5"),
        ("odd", ConfigError, "'odd' can't run: no images"),
        ("shy", DataError, "too few records"),
        ("none", ConfigError, "Expected attacks among"),
    ],
)
def test_an_attack_asked_for_by_name_runs_or_raises(
    name: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        run(name)


def test_names_are_taken_in_the_order_of_the_suite() -> None:
    assert [e.name for e in choose(("odd", "easy"), ENTRIES)] == ["easy", "odd"]


def test_material_that_does_not_fit_is_refused_before_any_attack() -> None:
    wide = Victim.of_module(nn.Linear(5, 2).eval(), sample=np.zeros((4, 5), np.float32))
    with pytest.raises(DataError, match="which the model takes"):
        run_suite(
            wide, MATERIAL, attacks=("all",), entries=(entry("never", run=refuse),),
            settings=Settings(),
        )  # fmt: skip
