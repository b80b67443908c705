"""LiRA, RMIA and BaVarIA against slow forms of themselves, planted leaks and clean models."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from membership_worlds import planted
from scipy.stats import norm
from scipy.stats import t as student
from sklearn.metrics import roc_auc_score

from reticent.attacks.membership.bavaria import bavaria, posteriors, variance_prior
from reticent.attacks.membership.lira import lira_offline, lira_online
from reticent.attacks.membership.rmia import (
    beaten_share,
    offline_slope,
    rmia_offline,
    rmia_online,
)
from reticent.attacks.membership.signals import References, Signals
from reticent.errors import DataError

SCORERS = {
    "lira online": lira_online,
    "lira offline": lira_offline,
    "rmia online": rmia_online,
    "rmia offline": rmia_offline,
    "bavaria": bavaria,
}


def slow_lira(target: np.ndarray, values: np.ndarray, member: np.ndarray, pooled: bool):
    """Carlini et al. 2022, Algorithm 1, record by record."""
    sides = []
    for side in (True, False):
        own = np.where(member == side, values, np.nan)
        mean = np.nanmean(own, axis=0)
        deviation = np.nanstd(own - mean) if pooled else np.nanstd(own, axis=0)
        sides.append(norm.logpdf(target, mean, deviation))
    return sides[0] - sides[1]


@pytest.mark.parametrize("pooled", [True, False])
def test_lira_equals_its_slow_form(pooled: bool) -> None:
    world = planted(models=41, rows=400, effect=1)
    target, rest = world.target(0), world.without(0)
    slow = slow_lira(target.candidates, rest.signals.candidates, rest.member, pooled)
    assert np.abs(lira_online(target, rest, pooled=pooled) - slow).max() < 1e-9


def test_lira_pools_the_variance_below_64_references_only() -> None:
    for models, pooled in ((40, True), (90, False)):
        world = planted(models=models, rows=200, effect=1)
        target, rest = world.target(0), world.without(0)
        assert np.array_equal(lira_online(target, rest), lira_online(target, rest, pooled=pooled))


def test_offline_lira_orders_as_the_paper_and_does_not_saturate() -> None:
    world = planted(models=30, rows=300, effect=12)
    target, rest = world.target(0), world.without(0)
    outside = np.where(rest.member, np.nan, rest.signals.candidates)
    mean = np.nanmean(outside, axis=0)
    paper = norm.cdf(target.candidates, mean, np.nanstd(outside - mean))
    ours = lira_offline(target, rest)
    assert np.all(np.diff(paper[np.argsort(ours)]) >= 0)
    assert len(np.unique(ours)) > len(np.unique(paper))


@pytest.mark.parametrize("gamma", [1.0, 2.0])
def test_rmia_equals_its_pairwise_form(gamma: float) -> None:
    world = planted(models=20, rows=150, effect=1, population=70)
    target, rest = world.target(0), world.without(0)
    n = target.pool
    p = np.exp(rest.signals.log_confidence)
    inside = np.array([p[rest.member[:, i], i].mean() for i in range(n)])
    outside = np.array([p[~rest.member[:, i], i].mean() for i in range(n)])
    own = np.exp(target.log_confidence)
    ratio_x = own[:n] / (0.5 * (inside + outside))
    ratio_z = own[n:] / p[:, n:].mean(axis=0)
    pairs = (ratio_x[:, None] / ratio_z[None, :] >= gamma).sum(axis=1)
    found = rmia_online(target, rest, gamma=gamma) * (70 + 1)
    assert np.array_equal(np.floor(found).astype(int), pairs)


def test_rmia_offline_uses_the_line_it_is_given() -> None:
    world = planted(models=20, rows=100, effect=1, population=40)
    target, rest = world.target(0), world.without(0)
    p = np.exp(rest.signals.log_confidence)
    outside = np.array([p[~rest.member[:, i], i].mean() for i in range(100)])
    prior = 0.5 * (1.3 * outside + 0.7)
    own = np.exp(target.log_confidence)
    ratio_z = own[100:] / p[:, 100:].mean(axis=0)
    pairs = (own[:100, None] / prior[:, None] / ratio_z >= 2).sum(axis=1)
    found = rmia_offline(target, rest, a=0.3) * 41
    assert np.array_equal(np.floor(found).astype(int), pairs)


def test_rmia_breaks_ties_by_the_ratio_without_moving_a_count() -> None:
    population = np.linspace(-1, 1, 11)
    ratio = np.array([3.0, 2.0, 0.05, 0.15, -4.0])
    found = beaten_share(ratio, population) * 12
    assert np.array_equal(np.floor(found), [11, 11, 6, 6, 0])
    assert np.array_equal(np.argsort(found), np.argsort(ratio))


@pytest.mark.parametrize("score", [rmia_online, rmia_offline, lira_online, bavaria])
def test_uneven_counts_cost_no_strength(score) -> None:
    """Taking the upper half of sorted signals as OUT is biased where OUT counts differ."""
    found = []
    for share in (0.5, np.linspace(0.2, 0.8, 6000)):
        world = planted(models=40, rows=6000, effect=1.5, population=500, share=share)
        scores = score(world.target(0), world.without(0))
        found.append(roc_auc_score(world.member[0], scores))
    assert found[1] == pytest.approx(found[0], abs=0.02)


def test_the_offline_slope_is_found_where_the_line_holds() -> None:
    rng = np.random.default_rng(0)
    outside = rng.uniform(0.1, 0.9, size=200)
    member = np.tile(np.array([[True], [False]]), (1, 200))
    confidence = np.log(np.stack([0.4 * outside + 0.6, outside]))
    signals = Signals(margin=confidence, log_confidence=confidence, pool=200)
    assert offline_slope(References(signals=signals, member=member)) == pytest.approx(0.4)


def test_bavarias_predictive_is_the_conjugate_students_t() -> None:
    """Averaging the normal over draws from the posterior gives the closed form."""
    world = planted(models=8, rows=500, effect=1)
    outside, _inside = posteriors(world)
    values = np.linspace(-3, 3, 500)
    expected = student.logpdf(values, df=outside.freedom, loc=outside.location, scale=outside.scale)
    assert np.allclose(outside.log_density(values), expected, atol=1e-10)


def test_the_variance_prior_is_recovered() -> None:
    rng = np.random.default_rng(0)
    true = 6 * 2.5 / rng.chisquare(6, size=20_000)
    freedom = rng.integers(3, 9, size=20_000).astype(float)
    variances = true * rng.chisquare(freedom) / freedom
    nu, scale = variance_prior(variances, freedom)
    assert nu == pytest.approx(6, rel=0.1)
    assert scale == pytest.approx(2.5, rel=0.05)


def test_bavaria_nears_lira_with_many_references_and_beats_it_with_few() -> None:
    many = planted(models=400, rows=600, effect=1)
    target, rest = many.target(0), many.without(0)
    full = lira_online(target, rest, pooled=False)
    assert np.corrcoef(bavaria(target, rest), full)[0, 1] > 0.99
    gains = []
    for seed in range(6):
        few = planted(models=5, rows=3000, effect=1, seed=seed)
        scores = (
            bavaria(few.target(0), few.without(0)),
            lira_online(few.target(0), few.without(0)),
        )
        ours, theirs = (roc_auc_score(few.member[0], s) for s in scores)
        gains.append(ours - theirs)
    assert min(gains) > 0


@pytest.mark.parametrize("name", SCORERS)
@pytest.mark.parametrize("models", [3, 20, 80])
def test_a_planted_leak_is_found_and_nothing_where_nothing_is(name: str, models: int) -> None:
    for effect, low, high in ((2.0, 0.65, 1.0), (0.0, 0.47, 0.53)):
        world = planted(models=models, rows=4000, effect=effect, population=500)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = SCORERS[name](world.target(0), world.without(0))
        assert np.isfinite(found).all()
        assert low <= roc_auc_score(world.member[0], found) <= high


@pytest.mark.parametrize("name", SCORERS)
def test_counts_of_independent_halves_tell_nothing(name: str) -> None:
    """A scorer that leaked through how often others trained on a row would show here."""
    world = planted(models=16, rows=20_000, effect=0, population=500)
    rest = world.without(0)
    count = -rest.member.sum(axis=0)
    assert abs(roc_auc_score(world.member[0], count) - 0.5) < 0.015
    found = SCORERS[name](world.target(0), rest)
    assert abs(roc_auc_score(world.member[0], found) - 0.5) < 0.015


def test_exact_halves_over_all_models_leak_through_the_count() -> None:
    """Why the bank draws halves independently: with balanced columns the count tells all."""
    rng = np.random.default_rng(0)
    order = np.argsort(rng.random((16, 500)), axis=0)
    member = order < 8
    assert roc_auc_score(member[0], -member[1:].sum(axis=0)) == 1.0


@pytest.mark.parametrize("name", ["lira online", "bavaria", "rmia online", "rmia offline"])
def test_without_a_population_the_order_is_the_same(name: str) -> None:
    world = planted(models=20, rows=200, effect=1)
    whole = SCORERS[name](world.target(0), world.without(0))
    cut = Signals(
        margin=world.signals.margin[:, :200],
        log_confidence=world.signals.log_confidence[:, :200],
        pool=200,
    )
    small = References(signals=cut, member=world.member)
    alone = SCORERS[name](small.target(0), small.without(0))
    assert np.array_equal(np.argsort(whole, kind="stable"), np.argsort(alone, kind="stable"))


def test_lira_without_both_sides_is_refused() -> None:
    world = planted(models=1, rows=20, effect=1)
    with pytest.raises(DataError, match="shadow models"):
        lira_online(world.target(0), world)
