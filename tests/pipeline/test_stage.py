"""Which attribute is attacked among which users, and what a stage is made of."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from marks import make_recipe

from reticent.data import load
from reticent.data.generators.gait import gait
from reticent.data.task import Kind
from reticent.errors import ConfigError
from reticent.pipeline.recipe import Recipe
from reticent.pipeline.stage import (
    answers_of,
    by_regime,
    cut_name,
    parts_of,
    prepare,
    regimes,
)


def recipe_for(data: str, **audit: object) -> Recipe:
    return Recipe.from_dict({"name": "r", "task": {"data": data}, "audit": audit}, source="test")


def test_identity_is_attacked_among_known_users_and_sex_among_unseen() -> None:
    task = gait(persons=30, recordings=1)
    assert regimes(recipe_for("gait"), task) == {"person": ("known",), "sex": ("unseen",)}
    assert by_regime(recipe_for("gait"), task) == {"known": ["person"], "unseen": ["sex"]}
    assert by_regime(recipe_for("gait", quick=True), task) == {"known": ["person", "sex"]}


def test_a_stated_regime_is_obeyed() -> None:
    task = gait(persons=30, recordings=1)
    asked = Recipe.from_dict(
        {"name": "r", "task": {"data": "gait", "regime": {"sex": "both"}}}, source="test"
    )
    assert regimes(asked, task)["sex"] == ("known", "unseen")


def test_an_attribute_that_the_task_lacks_is_refused() -> None:
    with pytest.raises(ConfigError, match="height"):
        regimes(recipe_for("gait", attributes=["height"]), gait(persons=6, recordings=1))


def test_cuts_by_number_count_from_the_input(arrays: Path) -> None:
    recipe = make_recipe(arrays)
    stage = prepare(recipe, load(str(arrays)), "known", report=lambda text: None)
    assert [cut_name(stage, index) for index in range(3)] == ["block1", "block2", "block3"]
    with pytest.raises(ConfigError, match="cut=3"):
        cut_name(stage, 3)


def test_the_stand_alone_classifier_forgets_the_weights_it_was_given(arrays: Path) -> None:
    """It has the client half's architecture and cost, not its training."""
    recipe = make_recipe(arrays)
    stage = prepare(recipe, load(str(arrays)), "known", report=lambda text: None)
    hardened = stage.harden(recipe)
    before = [p.clone() for p in hardened.halves.encoder.parameters()]
    assert stage.alone(hardened, recipe) > 0.6
    for old, new in zip(before, hardened.halves.encoder.parameters(), strict=True):
        assert torch.equal(old, new)


def test_outcomes_average_to_the_metric(arrays: Path) -> None:
    recipe = make_recipe(arrays)
    stage = prepare(recipe, load(str(arrays)), "known", report=lambda text: None)
    test = stage.records("test")
    right = stage.outputs("test").argmax(axis=1) == test.public
    assert np.array_equal(stage.test_outcomes(), right.astype(float))


@pytest.mark.parametrize(
    ("inference", "apart"),
    [
        ({"method": "center_noise", "options": {"radius": "none"}}, True),
        ({"method": "center_noise"}, False),
        ({"method": "ceb"}, True),
        ({"method": "center", "options": {"sigma": 0.5}}, True),
        ({"method": "center"}, False),
        ({"method": "adapter_code"}, False),
    ],
)
def test_averages_are_certified_on_records_that_chose_nothing(
    arrays: Path, inference: dict[str, object], apart: bool
) -> None:
    recipe = make_recipe(arrays, **inference)
    parts = parts_of(recipe, load(str(arrays)), "known")
    assert bool(len(parts.certify)) == apart
    assert len(parts.test) == 360


def test_the_answers_are_laid_on_the_training_rows(arrays: Path) -> None:
    task = gait(persons=6, recordings=1)
    parts = parts_of(recipe_for("gait"), task, "known")
    assert answers_of(task, parts).levels == task.classes
    speed = replace(
        task, kind=Kind.REGRESSION, public=np.arange(len(task), dtype=np.float32), class_names=()
    )
    made = answers_of(speed, parts, 5)
    assert made.values is not None
    low, high = np.quantile(speed.public[parts.train], [0.001, 0.999])
    assert made.values[0] == pytest.approx(low + (high - low) / 10, rel=1e-5)
