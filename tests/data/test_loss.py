"""Limits on a loss of utility: by hand, exact where few records change, covering with users."""

import numpy as np
import pytest
from scipy import stats

from reticent.data.loss import utility_loss


def test_utility_loss_by_hand_without_clusters() -> None:
    """100 records, 10 lost, 2 gained: mean 0.08, and the paired t limit."""
    baseline, protected = np.ones(100), np.ones(100)
    protected[:10], baseline[10:12] = 0, 0
    lost = baseline - protected
    found = utility_loss(baseline, protected)
    expected = 0.08 + stats.t.ppf(0.95, 99) * lost.std(ddof=1) / 10
    assert found.loss == pytest.approx(0.08)
    assert found.upper == pytest.approx(expected)
    assert not found.within(0.08)
    assert found.within(0.2)


def test_no_discordant_record_is_no_proof_of_no_loss() -> None:
    found = utility_loss(np.ones(50), np.ones(50))
    assert found.loss == 0
    assert found.upper == pytest.approx(1 - 0.05 ** (1 / 50))


def test_utility_limit_covers_with_users() -> None:
    """300 trials, 15 users with a loss of their own around 0.05: at most 5 % may be above the
    limit; 10 % or more has probability below 0.001."""
    rng = np.random.default_rng(9)
    missed = 0
    for _ in range(300):
        chance = np.clip(rng.normal(0.05, 0.03, size=15), 0, 1)
        protected = (rng.random((15, 60)) >= chance[:, None]).astype(float).reshape(-1)
        users = np.repeat(np.arange(15), 60)
        missed += utility_loss(np.ones(900), protected, clusters=users).upper < 0.05
    assert missed < 30


def test_a_loss_is_shown_by_the_lower_limit_only() -> None:
    """49 records, 2 worse: a loss of 0.04 that isn't shown to exceed 0.01; of 980, 40 are."""
    few, many = np.ones(49), np.ones(980)
    few[:2], many[:40] = 0, 0
    assert utility_loss(np.ones(49), few).loss == pytest.approx(2 / 49)
    assert not utility_loss(np.ones(49), few).exceeds(0.01)
    assert utility_loss(np.ones(980), many).exceeds(0.01)


def test_few_changed_records_are_judged_exactly() -> None:
    """Three better of 1,000: the upper limit leaves no more than Clopper and Pearson's share."""
    worse = np.ones(1000)
    worse[:3] = 0
    exact = stats.binomtest(3, 1000, alternative="greater").proportion_ci(0.95, method="exact")
    lost, gained = utility_loss(np.ones(1000), worse), utility_loss(worse, np.ones(1000))
    assert lost.lower <= exact.low
    assert gained.upper >= -exact.low
    assert gained.lower == pytest.approx(-lost.upper)
    assert gained.upper == pytest.approx(-lost.lower)
    certain = stats.binomtest(3, 1000, alternative="less").proportion_ci(0.95, method="exact")
    assert lost.upper == pytest.approx(certain.high)


def test_a_true_loss_within_the_limit_is_rarely_shown_to_exceed_it() -> None:
    """300 trials of 50 records, a true loss of 0.01: at most 5 % may be shown above 0.01."""
    rng = np.random.default_rng(3)
    shown = sum(
        utility_loss(np.ones(50), (rng.random(50) >= 0.01).astype(float)).exceeds(0.01)
        for _ in range(300)
    )
    assert shown <= 24


def test_one_user_shows_nothing() -> None:
    found = utility_loss(np.ones(9), np.zeros(9), clusters=np.zeros(9, dtype=np.int64))
    assert (found.lower, found.upper) == (-np.inf, np.inf)
    assert not found.exceeds(0.5)
    assert not found.within(1.0)
