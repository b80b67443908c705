"""ROC curves against slow oracles and scikit-learn; intervals by simulation with fixed seeds."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score, roc_curve

from reticent.audit.rates import AcrossTargets, Rate, Spread, Unresolvable, pooled, roc
from reticent.audit.statistics import clopper_pearson
from reticent.errors import DataError
from reticent.random import seeded


@st.composite
def tied_scores(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Few distinct scores, so that most records are tied; both kinds present."""
    size = draw(st.integers(2, 60))
    levels = draw(st.integers(1, 8))
    rng = seeded(draw(st.integers(0, 2**31)), 1)
    truth = rng.random(size) < 0.5
    truth[0], truth[1] = True, False
    return rng.integers(levels, size=size).astype(float), truth


@settings(max_examples=80, deadline=None)
@given(tied_scores())
def test_every_point_equals_a_count_by_hand(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    scores, truth = drawn
    curve = roc(scores, truth)
    assert list(curve.thresholds) == sorted(set(scores), reverse=True)
    for threshold, hits, alarms in zip(
        curve.thresholds, curve.true_positives, curve.false_positives, strict=True
    ):
        assert hits == sum(s >= threshold for s, t in zip(scores, truth, strict=True) if t)
        assert alarms == sum(s >= threshold for s, t in zip(scores, truth, strict=True) if not t)


@settings(max_examples=80, deadline=None)
@given(tied_scores())
def test_the_area_equals_all_pairs_compared(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    scores, truth = drawn
    members, others = scores[truth], scores[~truth]
    won = np.sign(members[:, None] - others[None]) / 2 + 0.5
    curve = roc(scores, truth)
    assert curve.auc == pytest.approx(won.mean())
    assert curve.auc == pytest.approx(roc_auc_score(truth, scores))
    low, high = curve.auc_ci
    assert 0 <= low <= curve.auc <= high <= 1


@settings(max_examples=60, deadline=None)
@given(tied_scores())
def test_delongs_variance_equals_its_definition(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    scores, truth = drawn
    members, others = scores[truth], scores[~truth]
    won = np.sign(members[:, None] - others[None]) / 2 + 0.5
    if min(won.shape) < 2 or not 0 < won.mean() < 1:
        return
    variance = won.mean(axis=1).var(ddof=1) / len(members)
    variance += won.mean(axis=0).var(ddof=1) / len(others)
    if variance == 0:
        return
    low, high = roc(scores, truth).auc_ci
    width = (math.log(high / (1 - high)) - math.log(low / (1 - low))) / 2
    area = won.mean()
    expected = stats.norm.ppf(0.975) * math.sqrt(variance) / (area * (1 - area))
    assert width == pytest.approx(expected, rel=1e-6)


def test_the_curve_is_scikit_learns() -> None:
    rng = seeded(3, 1)
    truth = rng.random(500) < 0.4
    scores = np.round(rng.normal(truth.astype(float), 1.0), 1)
    fpr, tpr, _ = roc_curve(truth, scores, drop_intermediate=False)
    curve = roc(scores, truth)
    assert np.allclose(curve.fpr, fpr[1:])
    assert np.allclose(curve.tpr, tpr[1:])


@pytest.mark.parametrize("shift", [0.0, 0.7, 2.0])
def test_the_area_interval_covers(shift: float) -> None:
    """400 samples of 60 + 80; the 95 % interval must hold the true area in 92 to 98 %."""
    area = stats.norm.cdf(shift / math.sqrt(2))
    rng = seeded(5, 1)
    truth = np.arange(140) < 60
    held = 0
    for _ in range(400):
        low, high = roc(rng.normal(shift * truth, 1.0), truth).auc_ci
        held += low <= area <= high
    assert 0.92 <= held / 400 <= 0.98


def test_perfect_separation_of_a_few_is_no_proof() -> None:
    low, high = roc(np.arange(10.0), np.arange(10) >= 5).auc_ci
    assert (low, high) == pytest.approx(clopper_pearson(5, 5))
    low, high = roc(np.arange(10.0), np.arange(10) < 5).auc_ci
    assert (low, high) == pytest.approx(clopper_pearson(0, 5))


def test_one_score_for_all_tells_nothing() -> None:
    curve = roc(np.zeros(200), np.arange(200) < 100)
    assert curve.auc == 0.5
    assert curve.advantage == 0.0
    assert curve.auc_ci[0] < 0.5 < curve.auc_ci[1]
    rate = curve.tpr_at(0.1)
    assert isinstance(rate, Rate)
    assert rate.value == 0.0


def test_tpr_takes_the_best_threshold_within_the_fpr() -> None:
    """10 of 100 members above all; then 1 non-member; 20 members; then the rest."""
    scores = np.concatenate([np.full(10, 9.0), [8.0], np.full(20, 7.0), np.zeros(70 + 99)])
    truth = np.concatenate([np.ones(10), [0], np.ones(20), np.ones(70), np.zeros(99)]).astype(bool)
    curve = roc(scores, truth)
    rate = curve.tpr_at(0.03)
    assert isinstance(rate, Rate)
    assert (rate.k, rate.n) == (30, 100)
    assert rate.ci == pytest.approx(clopper_pearson(30, 100))
    point = curve.operating_point(0.03)
    assert (point.fpr.k, point.fpr.n, point.threshold) == (1, 100, 7.0)
    assert curve.operating_point(0.0).tpr.k == 10


def test_a_rate_too_small_for_the_sample_is_refused() -> None:
    curve = roc(np.arange(4000.0), np.arange(4000) < 1001)
    assert isinstance(curve.tpr_at(0.001), Unresolvable)
    assert "not resolvable with n=2999" in str(curve.tpr_at(0.001))
    assert isinstance(roc(np.arange(4000.0), np.arange(4000) < 1000).tpr_at(0.001), Rate)


def test_a_fixed_threshold_counts_ties_as_members() -> None:
    scores, truth = np.array([3.0, 2.0, 2.0, 1.0]), np.array([True, True, False, False])
    curve = roc(scores, truth)
    assert (curve.at_threshold(2.0).tpr.k, curve.at_threshold(2.0).fpr.k) == (2, 1)
    assert (curve.at_threshold(2.5).tpr.k, curve.at_threshold(2.5).fpr.k) == (1, 0)
    assert (curve.at_threshold(4.0).tpr.k, curve.at_threshold(4.0).fpr.k) == (0, 0)
    assert (curve.at_threshold(-1.0).tpr.k, curve.at_threshold(-1.0).fpr.k) == (2, 2)


def test_the_advantage_interval_holds_although_the_threshold_was_chosen() -> None:
    """True advantage 0 (no leak): the point is always above it, the interval almost always not."""
    rng = seeded(6, 1)
    truth = np.arange(400) < 200
    curves = [roc(rng.normal(size=400), truth) for _ in range(200)]
    assert np.mean([curve.advantage > 0 for curve in curves]) > 0.95
    assert np.mean([curve.advantage_interval()[0] > 0 for curve in curves]) <= 0.05
    leak = roc(rng.normal(2.0 * truth, 1.0), truth)
    assert leak.advantage_interval()[0] > 0.3


def test_thinned_points_lie_on_the_curve_and_keep_its_ends() -> None:
    rng = seeded(7, 1)
    truth = np.arange(40_000) < 20_000
    curve = roc(rng.normal(truth.astype(float), 1.0), truth)
    thinned = curve.points(limit=100)
    assert len(thinned["fpr"]) <= 100
    assert thinned["fpr"][-1] == thinned["tpr"][-1] == 1.0
    assert thinned["fpr"][0] == 0.0
    assert sum(rate <= 0.01 for rate in thinned["fpr"]) >= 30
    for fpr, tpr in zip(thinned["fpr"], thinned["tpr"], strict=True):
        assert curve.operating_point(fpr).tpr.value == tpr


def test_infinite_scores_are_ranked_and_details_stay_finite() -> None:
    curve = roc([math.inf, math.inf, 1.0, -math.inf], [True, False, True, False])
    assert list(curve.true_positives) == [1, 2, 2]
    json.dumps(curve.details(), allow_nan=False)


@pytest.mark.parametrize(
    ("scores", "truth", "said"),
    [
        ([0.1, math.nan], [True, False], "without NaN"),
        ([0.1, 0.2], [True, True], "members=2"),
        ([0.1, 0.2], [True], "one shape"),
        ([0.1, 0.2], [2, 0], "booleans"),
    ],
)
def test_unusable_scores_are_refused(scores: list[float], truth: list[int], said: str) -> None:
    with pytest.raises(DataError, match=said):
        roc(scores, truth)


def test_pooling_equals_one_curve_over_all_records() -> None:
    rng = seeded(8, 1)
    truth = rng.random((4, 90)) < 0.5
    scores = rng.integers(12, size=(4, 90)) + truth
    merged = pooled([roc(s, t) for s, t in zip(scores, truth, strict=True)])
    at_once = roc(scores.ravel(), truth.ravel())
    assert np.array_equal(merged.thresholds, at_once.thresholds)
    assert np.array_equal(merged.true_positives, at_once.true_positives)
    assert np.array_equal(merged.false_positives, at_once.false_positives)


def test_spread_between_targets() -> None:
    rng = seeded(9, 1)
    truth = np.arange(1000) < 500
    several = AcrossTargets(
        curves=tuple(roc(rng.normal(shift * truth, 1.0), truth) for shift in (0.5, 1.0, 1.5))
    )
    assert several.auc.targets == 3
    assert several.auc.low < several.auc.mean < several.auc.high
    assert several.auc.ci[0] < several.auc.mean < several.auc.ci[1]
    assert isinstance(several.tpr_at(0.01), Spread)
    assert isinstance(several.tpr_at(0.001), Unresolvable)
    assert several.pooled.members == 1500
    assert AcrossTargets(curves=several.curves[:1]).auc.ci == (0.0, 1.0)
