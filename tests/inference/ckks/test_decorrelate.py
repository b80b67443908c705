"""Records that are made ready: alike in size, and descent needs fewer steps for them."""

from __future__ import annotations

import numpy as np
import pytest

from reticent.errors import DataError
from reticent.inference.ckks.decorrelate import decorrelation
from reticent.inference.ckks.regression import Regression, signed_rows


def correlated(n: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Eight features that are one and the same but for a tenth, which the label hangs on."""
    rng = np.random.default_rng(0)
    own = rng.normal(size=(n, 8))
    y = (own[:, 0] - own[:, 1] > 0).astype(int)
    return 50 + 10 * (rng.normal(size=(n, 1)) + own / 10), y


def loss(x: np.ndarray, y: np.ndarray) -> float:
    task = Regression(features=8, records=len(x), learning_rate=2.0)
    rows, weights = signed_rows(x, y), np.zeros(9)
    for _ in range(10):
        weights = task.step(rows, weights)
    return float(np.log1p(np.exp(-rows @ weights)).mean())


def test_ten_steps_go_further_than_on_standardised_records() -> None:
    x, y = correlated()
    ready = decorrelation(x).apply(x)
    plain = (x - x.mean(axis=0)) / x.std(axis=0) / np.sqrt(8)
    assert (ready**2).sum(axis=1).mean() == pytest.approx(1.0)
    off = np.corrcoef(ready.T) - np.eye(8)
    assert np.abs(off).max() < 0.05 < np.abs(np.corrcoef(plain.T) - np.eye(8)).max()
    assert loss(ready, y) < loss(plain, y) - 0.01


def test_outliers_are_cut_off_and_constant_features_vanish() -> None:
    x, _ = correlated()
    x[:, 7] = 5.0
    made = decorrelation(x)
    far = x[:1] + 1e6
    assert np.abs(made.apply(far)).max() < 10
    assert np.isfinite(made.apply(x)).all()
    for bad in (x[:1], x[0], x * np.nan):
        with pytest.raises(DataError):
            decorrelation(bad)
