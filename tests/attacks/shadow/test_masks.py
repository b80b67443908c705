"""Independent masks: of the right size, and mute about a target that is taken out."""

from __future__ import annotations

import numpy as np
import pytest

from reticent.attacks.shadow.masks import held_out_rows, independent_masks, rows_of
from reticent.errors import ConfigError


def auc(scores: np.ndarray, truth: np.ndarray) -> float:
    """The share of (member, other) pairs in which the member scores higher; ties count half."""
    difference = scores[truth][:, None] - scores[~truth][None, :]
    return float(((difference > 0) + 0.5 * (difference == 0)).mean())


def count_score_aucs(masks: np.ndarray) -> np.ndarray:
    """For each model as the target: the AUC of minus a row's count among the other models."""
    total = masks.sum(axis=0)
    return np.array([auc(-(total - mask), mask) for mask in masks])


def balanced_masks(count: int, pool: int) -> np.ndarray:
    """Every row in exactly half of the models: what must not be done."""
    order = np.argsort(np.random.default_rng(0).random((count, pool)), axis=0)
    return order < count // 2


def test_each_model_has_size_members_of_its_own() -> None:
    masks = independent_masks(40, pool=30, size=15, seed=3)
    assert (masks.sum(axis=1) == 15).all()
    assert len({mask.tobytes() for mask in masks}) == 40
    assert np.array_equal(rows_of(masks)[7], np.flatnonzero(masks[7]))
    with pytest.raises(ConfigError, match="as many members"):
        rows_of(np.array([[True, False], [True, True]]))


def test_a_longer_bank_extends_a_shorter_one() -> None:
    assert np.array_equal(
        independent_masks(9, pool=20, size=8, seed=1)[:4],
        independent_masks(4, pool=20, size=8, seed=1),
    )


def test_rows_are_drawn_uniformly() -> None:
    masks = independent_masks(4000, pool=10, size=3, seed=0)
    # Each row's count is binomial (4000, 0.3), standard deviation 29; five of them either way.
    assert np.abs(masks.sum(axis=0) - 1200).max() < 145


@pytest.mark.parametrize("size", [100, 60])
def test_counts_of_the_other_models_tell_nothing_about_a_target(size: int) -> None:
    found = count_score_aucs(independent_masks(65, pool=200, size=size, seed=2))
    # The standard error of one AUC with 100 + 100 rows is 0.041, of the mean over 65 about 0.005.
    assert abs(found.mean() - 0.5) < 0.02
    assert found.max() < 0.5 + 4 * 0.045


def test_a_balanced_design_is_caught() -> None:
    assert count_score_aucs(balanced_masks(64, 200)).min() == 1.0


def test_held_out_rows_are_no_members() -> None:
    masks = independent_masks(5, pool=20, size=8, seed=1)
    held = held_out_rows(masks, size=6, seed=1)
    assert held.shape == (5, 6)
    assert not np.take_along_axis(masks, held, axis=1).any()
    assert held_out_rows(masks, size=0, seed=1).shape == (5, 0)
    with pytest.raises(ConfigError, match="held_out=13"):
        held_out_rows(masks, size=13, seed=1)


@pytest.mark.parametrize(("count", "size"), [(0, 5), (3, 0), (3, 20)])
def test_masks_in_which_nothing_can_be_told_apart_are_refused(count: int, size: int) -> None:
    with pytest.raises(ConfigError, match="0 < size < pool"):
        independent_masks(count, pool=20, size=size, seed=0)
