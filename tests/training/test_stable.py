"""A stable head moves by no more than it says when a record comes or goes."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from reticent.errors import ConfigError, DataError
from reticent.training.stable import clipped, sensitivity, train_stable


def records(n: int = 60, d: int = 4, classes: int = 3, seed: int = 0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, n)
    return rng.normal(0, 0.3, (n, d)) + np.eye(classes, d)[y], y


def test_it_is_scikit_learns_regression_with_a_penalised_constant() -> None:
    x, y = records()
    ours = train_stable(x, y, classes=3, ridge=0.5, row_norm=1.0)
    rows = np.hstack([clipped(x, 1.0), np.ones((len(x), 1))])
    theirs = LogisticRegression(C=2.0, fit_intercept=False, tol=1e-10, max_iter=10_000)
    assert np.abs(ours.weights - theirs.fit(rows, y).coef_).max() < 1e-3


@pytest.mark.parametrize("ridge", [0.3, 3.0])
def test_no_record_moves_the_weights_by_more(ridge: float) -> None:
    x, y = records()
    whole = train_stable(x, y, classes=3, ridge=ridge)
    moves = []
    for gone in range(len(x)):
        kept = np.arange(len(x)) != gone
        less = train_stable(x[kept], y[kept], classes=3, ridge=ridge)
        moves.append(np.linalg.norm(whole.weights - less.weights))
    assert max(moves) <= whole.sensitivity


def test_the_bound_is_nearly_reached_and_a_huge_record_does_not_pass_it() -> None:
    """Few records, a strong ridge, one record of the wrong label: half of the bound is real."""
    ridge, base = 50.0, (np.array([[1.0, 0.0]]), np.array([0]))
    before = train_stable(*base, classes=2, ridge=ridge)
    for size in (1.0, 1e6):
        x = np.vstack([base[0], [[0.0, size]]])
        after = train_stable(x, np.array([0, 1]), classes=2, ridge=ridge)
        move = np.linalg.norm(after.weights - before.weights)
        assert 0.4 * before.sensitivity < move <= before.sensitivity
    x = np.vstack([base[0], [[0.0, 10.0]]])
    unclipped = train_stable(x, np.array([0, 1]), classes=2, ridge=ridge, row_norm=10.0)
    assert np.linalg.norm(unclipped.weights - before.weights) > before.sensitivity
    assert unclipped.sensitivity > 5 * before.sensitivity


def test_more_ridge_less_sensitivity_and_bad_constants_are_refused() -> None:
    assert sensitivity(ridge=2.0, row_norm=1.0) == pytest.approx(1.0, rel=1e-3)
    x, y = records()
    for wrong in ({"ridge": 0.0}, {"ridge": 1.0, "row_norm": 0.0}, {"ridge": np.inf}):
        with pytest.raises(ConfigError):
            train_stable(x, y, classes=3, **wrong)
    for bad_x, bad_y in ((x * np.nan, y), (x[:-1], y), (x, y + 3), (x, y / 2)):
        with pytest.raises(DataError):
            train_stable(bad_x, bad_y, classes=3, ridge=1.0)
