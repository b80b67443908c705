"""A baseline is judged at the strength that serves it best, chosen without the test part."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from marks import make_recipe

from reticent.data import load
from reticent.inference.split.methods import METHODS
from reticent.pipeline.stage import prepare
from reticent.pipeline.tuning import tuned


def quiet(_: str) -> None:
    """No progress."""


def test_the_least_leaking_strength_that_keeps_utility_is_chosen(
    arrays: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Little noise leaks, a hundredfold noise destroys the answer: the middle is taken.

    The attacker's and the test rows are removed: the choice must not need them.
    """
    grid = ({"sigma": 0.01}, {"sigma": 0.5}, {"sigma": 100.0})
    monkeypatch.setitem(METHODS, "noise", replace(METHODS["noise"], grid=grid))  # type: ignore[index]
    recipe = make_recipe(arrays)
    stage = prepare(recipe, load(str(arrays)), "known", report=quiet)
    none = np.zeros(0, dtype=np.int64)
    blind = replace(
        stage,
        partition=replace(
            stage.partition, attacker_train=none, attacker_validation=none, test=none
        ),
    )
    made = tuned(recipe, blind, "noise", cut="block1", names=["person"], report=quiet, most=0.05)
    assert made.options == {"sigma": 0.5}
    (said,) = made.choices
    assert said.startswith("noise: sigma=0.5, on ")
    assert said.count("leaks") == 3


def test_where_every_strength_loses_too_much_the_mildest_is_taken(
    arrays: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = ({"sigma": 300.0}, {"sigma": 3.0}, {"sigma": 1000.0})
    monkeypatch.setitem(METHODS, "noise", replace(METHODS["noise"], grid=grid))  # type: ignore[index]
    recipe = make_recipe(arrays)
    stage = prepare(recipe, load(str(arrays)), "known", report=quiet)
    made = tuned(recipe, stage, "noise", cut="block1", names=["person"], report=quiet, most=0.0)
    assert made.options == {"sigma": 3.0}


def test_every_baseline_that_trains_has_a_grid_and_ours_have_none() -> None:
    for name, method in METHODS.items():
        assert bool(method.grid) == (method.baseline and name != "nullspace"), name
        for options in method.grid:
            assert set(options) <= set(method.options)
