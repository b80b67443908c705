"""Intervals against known values, and their coverage by simulation with fixed seeds."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from reticent.audit.statistics import (
    Bootstrap,
    bootstrap_balanced,
    bootstrap_ratio,
    clopper_pearson,
    expanded_interval,
    resampled_weights,
)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 400), st.data())
def test_clopper_pearson_equals_scipys_exact_interval(trials: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, trials))
    expected = stats.binomtest(successes, trials).proportion_ci(method="exact")
    assert clopper_pearson(successes, trials) == pytest.approx((expected.low, expected.high))


def test_clopper_pearson_of_no_success_is_the_rule_of_three() -> None:
    low, high = clopper_pearson(0, 100, confidence=0.90)
    assert low == 0
    assert high == pytest.approx(1 - 0.05 ** (1 / 100))
    with pytest.raises(ValueError, match="successes=3"):
        clopper_pearson(3, 2)


def test_weights_draw_each_stratum_to_its_own_size() -> None:
    strata = np.array([0, 0, 0, 1, 1])
    weights = resampled_weights(5, strata=strata, resamples=400, seed=1)
    assert (weights[:, :3].sum(axis=1) == 3).all()
    assert (weights[:, 3:].sum(axis=1) == 2).all()
    # The mean weight is 1; 400 draws of variance below 1 stay within 0.2 (four deviations).
    assert np.allclose(weights.mean(axis=0), 1.0, atol=0.2)


def _rates(rng: np.random.Generator, users: int, records: int) -> tuple[np.ndarray, np.ndarray]:
    """Hits of users whose own rates differ: mean 0.6, between-user deviation 0.15."""
    rate = rng.beta(5.8, 3.87, size=users)
    hits = rng.random((users, records)) < rate[:, None]
    return hits.astype(float).reshape(-1, 1), np.repeat(np.arange(users), records)


def test_user_bootstrap_covers_and_record_bootstrap_would_not() -> None:
    """200 trials of 12 users with 40 records. Claimed 95 %: below 90 % has probability 0.002."""
    rng = np.random.default_rng(3)
    covered = {"users": 0, "records": 0}
    for trial in range(200):
        hits, users = _rates(rng, 12, 40)
        one = np.zeros(len(hits), dtype=np.int64)
        for name, clusters in (("users", users), ("records", np.arange(len(hits)))):
            boot = bootstrap_balanced(hits, one, clusters, resamples=300, seed=trial)
            low, high = boot.interval(0)
            covered[name] += low <= 5.8 / 9.67 <= high
    assert covered["users"] >= 180
    assert covered["records"] < 160


def test_balanced_bootstrap_by_a_slow_path() -> None:
    """Values and resamples equal a loop over users, with the same weights."""
    rng = np.random.default_rng(4)
    users = rng.integers(6, size=120)
    classes = rng.integers(3, size=120)
    hits = rng.random((120, 2))
    boot = bootstrap_balanced(hits, classes, users, resamples=20, seed=9)
    weights = resampled_weights(6, resamples=20, seed=9)
    for draw in range(20):
        rows = np.repeat(np.arange(120), weights[draw, users].astype(int))
        slow = np.mean([hits[rows][classes[rows] == c].mean(axis=0) for c in range(3)], axis=0)
        assert np.allclose(boot.samples[draw], slow)
    slow = np.mean([hits[classes == c].mean(axis=0) for c in range(3)], axis=0)
    assert np.allclose(boot.values, slow)


def test_identity_resamples_users_recalls() -> None:
    users = np.repeat(np.arange(5), 4)
    hits = np.repeat([1.0, 0.0, 0.5, 1.0, 0.0], 4)[:, None]
    boot = bootstrap_balanced(hits, users, users, resamples=50, seed=0)
    weights = resampled_weights(5, resamples=50, seed=0)
    assert boot.values[0] == pytest.approx(0.5)
    assert np.allclose(boot.samples[:, 0], weights @ np.array([1, 0, 0.5, 1, 0]) / 5)


def test_no_value_drops_out_of_a_stratified_resample() -> None:
    """Two users per value: drawn freely, a quarter of the resamples would lack a value."""
    users = np.repeat(np.arange(4), 3)
    classes = users // 2
    hits = (classes == 0).astype(float)[:, None]
    boot = bootstrap_balanced(hits, classes, users, resamples=200)
    assert np.allclose(boot.samples, 0.5)
    assert boot.interval(0) == (0.5, 0.5)


def test_identical_columns_differ_by_exactly_nothing() -> None:
    rng = np.random.default_rng(5)
    hits = np.repeat(rng.random((90, 1)) < 0.4, 2, axis=1).astype(float)
    boot = bootstrap_balanced(hits, rng.integers(2, size=90), rng.integers(9, size=90))
    assert boot.difference(0, 1) == (0.0, (0.0, 0.0))


def test_ratio_bootstrap_by_a_slow_path() -> None:
    rng = np.random.default_rng(6)
    users, above, below = rng.integers(7, size=60), rng.random((60, 1)), rng.random(60)
    boot = bootstrap_ratio(above, below, users, resamples=10, seed=2)
    weights = resampled_weights(7, resamples=10, seed=2)
    for draw in range(10):
        w = weights[draw, users]
        assert boot.samples[draw, 0] == pytest.approx((w * above[:, 0]).sum() / (w @ below))
    assert boot.values[0] == pytest.approx(above.sum() / below.sum())


def test_few_clusters_widen_the_interval() -> None:
    samples = np.random.default_rng(7).normal(size=100_000)
    wide = expanded_interval(samples, 5)
    assert wide[1] == pytest.approx(math.sqrt(5 / 4) * stats.t.ppf(0.975, 4), rel=0.05)
    assert expanded_interval(samples, 10_000)[1] == pytest.approx(1.96, abs=0.03)
    assert expanded_interval(samples, 1) == (-math.inf, math.inf)
    assert expanded_interval(np.zeros(5), 1) == (0.0, 0.0)


def test_bootstrap_intervals_name_their_confidence() -> None:
    samples = np.random.default_rng(8).normal(size=(5_000, 2))
    boot = Bootstrap(values=np.zeros(2), samples=samples, clusters=1_000)
    narrow = boot.difference(0, 1, confidence=0.5)[1]
    assert narrow[1] < boot.difference(0, 1)[1][1]
