"""The pool of families: a convex problem solved, useless ones dropped, independent ones added."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from reticent.attacks.attribute.calibration import balanced_accuracy
from reticent.attacks.attribute.inference import pool_weights

VALUES = 4
Array = NDArray[np.float64]
Labels = NDArray[np.int64]


def family(rng: np.random.Generator, target: Labels, power: float) -> Array:
    """Calibrated log-posteriors of a Gaussian signal of this power, (n, 4)."""
    signal = rng.normal(size=(len(target), VALUES)) + power * np.eye(VALUES)[target]
    return np.asarray(log_softmax(power * signal, axis=1))


def loss(weights: Array, scores: Array, target: Labels) -> float:
    """The objective by plain loops."""
    pooled = [log_softmax(sum(w * s[row] for w, s in zip(weights, scores, strict=True)))
              for row in range(len(target))]  # fmt: skip
    each = [np.mean([-pooled[row][value] for row in np.flatnonzero(target == value)])
            for value in np.unique(target)]  # fmt: skip
    return float(np.mean(each) + 0.1 * np.sum(weights**2))


def test_no_other_weights_have_a_lower_objective() -> None:
    rng = np.random.default_rng(0)
    target = rng.integers(VALUES, size=60)
    scores = np.stack([family(rng, target, power) for power in (1.0, 0.5)])
    found = pool_weights(scores, target)
    best = loss(found, scores, target)
    for first in np.linspace(0, 3, 16):
        for second in np.linspace(0, 3, 16):
            assert loss(np.array([first, second]), scores, target) >= best - 1e-6


def test_a_family_that_knows_nothing_gets_next_to_no_weight() -> None:
    rng = np.random.default_rng(1)
    target = rng.integers(VALUES, size=400)
    noise = np.asarray(log_softmax(rng.normal(size=(400, VALUES)), axis=1))
    useful, useless = pool_weights(np.stack([family(rng, target, 1.5), noise]), target)
    assert useful > 0.5
    assert useless < 0.1


def test_families_that_err_independently_are_stronger_together() -> None:
    """Three equal families: the pool beats the best of them by several points on new records."""
    rng = np.random.default_rng(2)
    train, test = rng.integers(VALUES, size=300), rng.integers(VALUES, size=4000)
    seen = np.stack([family(rng, train, 1.0) for _ in range(3)])
    new = np.stack([family(rng, test, 1.0) for _ in range(3)])
    weights = pool_weights(seen, train)
    pooled = balanced_accuracy(np.tensordot(weights, new, axes=1), test)
    assert weights.sum() > 1.2
    assert pooled > max(balanced_accuracy(one, test) for one in new) + 0.05


def test_identical_families_share_the_weight() -> None:
    rng = np.random.default_rng(3)
    target = rng.integers(VALUES, size=200)
    one = family(rng, target, 1.0)
    twins = pool_weights(np.stack([one, one]), target)
    np.testing.assert_allclose(twins[0], twins[1], atol=1e-3)
