"""Tests whether a run is the mechanism that its claim is about, with exact p-values.

An epsilon speaks about Poisson samples, contributions that don't depend on who else was drawn, and
fresh Gaussian noise of one scale. A trainer that breaks one of these isn't covered by it, whether
or not a canary shows more than epsilon. Each test is exact, or errs on the safe side, when the
claim is true.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from reticent.audit.white_box_bounds import sampled
from reticent.audit.white_box_canaries import Declared, Route, Sight, expected_moves

_KS_DRAWS = 20_000


@dataclass(frozen=True, kw_only=True)
class Check:
    """A property of the mechanism, what was seen of it, and how likely that is if it holds."""

    name: str
    p_value: float
    says: str


def checks(sight: Sight, declared: Declared) -> tuple[Check, ...]:
    """Every test, in the order: noise, contributions, sampling."""
    return (
        noise_level(sight.spare, declared),
        noise_steady(sight.spare),
        noise_fresh(sight.spare),
        noise_gaussian(sight.spare),
        *moves(sight, declared),
        additive(sight, declared),
        *nothing_else(sight),
        *sampling(sight.draws[:, 1:], sampled(declared)),
    )


def noise_level(spare: NDArray[np.float64], declared: Declared) -> Check:
    """The noise's standard deviation over clip norm is the multiplier that was paid for."""
    z = declared.mechanism.noise_multiplier
    total = float(np.square(spare).sum()) / z**2
    return Check(
        name="noise level",
        p_value=_both_sides(stats.chi2.cdf(total, spare.size), stats.chi2.sf(total, spare.size)),
        says=f"noise {math.sqrt(total / spare.size) * z:.4g} clip norms, declared {z:.4g}",
    )


def noise_steady(spare: NDArray[np.float64]) -> Check:
    """Every step has the same noise: a divisor, or a scale, that follows the data doesn't.

    Each step against all others, an F test; the least p-value pays for the number of steps.
    """
    steps, width = spare.shape
    totals = np.square(spare).sum(axis=1)
    rest = totals.sum() - totals
    if steps == 1 or not rest.all():
        return Check(name="noise steady", p_value=float(steps == 1), says="steps without noise")
    found = (steps - 1) * totals / rest
    law = stats.f(width, width * (steps - 1))
    least = float(np.minimum(law.cdf(found), law.sf(found)).min())
    low, high = np.sqrt(totals.min() / width), np.sqrt(totals.max() / width)
    return Check(
        name="noise steady",
        p_value=min(1.0, 2 * steps * least),
        says=f"noise from {low:.4g} to {high:.4g} clip norms over {steps} steps",
    )


def noise_fresh(spare: NDArray[np.float64]) -> Check:
    """Neither the next step nor the neighbouring direction repeats the noise.

    Correlations of disjoint pairs, known to have mean zero: a t distribution with one degree of
    freedom less than pairs.
    """
    pairs = [(spare[0:-1:2], spare[1::2])] if len(spare) > 1 else []
    pairs.append((spare[:, 0 : spare.shape[1] - 1 : 2], spare[:, 1::2]))
    found = [_correlation(left.ravel(), right.ravel()) for left, right in pairs]
    values = ", ".join(f"{value:.3g}" for value, _ in found)
    return Check(
        name="noise fresh",
        p_value=min(1.0, len(found) * min(p for _, p in found)),
        says=f"correlation between steps and between directions {values}",
    )


def noise_gaussian(spare: NDArray[np.float64]) -> Check:
    """The noise's shape, by Kolmogorov and Smirnov.

    Its own scale is used, which errs on the safe side.
    """
    some = spare.ravel()[:: max(1, spare.size // _KS_DRAWS)]
    scale = math.sqrt(float(np.square(spare).mean()))
    if scale == 0:
        return Check(name="noise Gaussian", p_value=0.0, says="no noise at all")
    found = stats.kstest(some / scale, "norm")
    return Check(
        name="noise Gaussian",
        p_value=float(found.pvalue),
        says=f"distribution function off by {float(found.statistic):.3g} at most, n={some.size}",
    )


def moves(sight: Sight, declared: Declared) -> tuple[Check, ...]:
    """By each route, a drawn canary moves the sum by its clip norm, no more and no less."""
    expected = expected_moves(sight, declared)
    made = []
    for route in Route:
        own = sight.drawn & (sight.routes == route)
        values = sight.scores[own] - np.broadcast_to(expected, own.shape)[own]
        level = float(expected[sight.routes == route][0])
        made.append(
            Check(
                name=f"contribution by {route.name.lower()}",
                p_value=_mean_is_zero(values, sight.spare),
                says=f"{float(values.mean() + level) if len(values) else math.nan:.4g} clip norms, "
                f"expected {level:.4g}, n={len(values)}",
            )
        )
    return tuple(made)


def additive(sight: Sight, declared: Declared) -> Check:
    """What a record adds doesn't depend on how many were drawn with it: the slope is zero."""
    sizes = sight.draws[:, 1:].sum(axis=1).astype(np.float64)
    centred = sizes - sizes.mean()
    rest = np.where(sight.drawn, sight.scores - expected_moves(sight, declared), 0.0).sum(axis=1)
    weight = math.sqrt(float((np.square(centred) * sight.drawn.sum(axis=1)).sum()))
    if weight == 0:
        return Check(name="additive", p_value=1.0, says="all batches have one size")
    value = float((centred * rest).sum()) / weight
    return Check(
        name="additive",
        p_value=_mean_is_zero(np.array([value]), sight.spare),
        says=f"contributions change by {float((centred * rest).sum()) / weight**2:.3g} clip norms "
        "per record drawn",
    )


def nothing_else(sight: Sight) -> tuple[Check, ...]:
    """Canaries that weren't drawn have no part in the release, not even from the step before."""
    quiet, before = ~sight.drawn, np.zeros_like(sight.drawn)
    before[1:] = sight.drawn[:-1]
    return tuple(
        Check(
            name=name,
            p_value=_mean_is_zero(sight.scores[own], sight.spare),
            says=f"{float(sight.scores[own].mean()) if own.any() else 0.0:.3g} clip norms from "
            f"canaries {whose}, n={int(own.sum())}",
        )
        for name, own, whose in (
            ("nothing but the draw", quiet, "not drawn"),
            ("nothing left over", quiet & before, "drawn in the step before only"),
        )
    )


def sampling(draws: NDArray[np.bool_], probability: float) -> tuple[Check, ...]:
    """Every record enters every batch by its own coin: rate, batch sizes, and repeats.

    Three binomial tests: how many draws there were; how many batch sizes lie in the middle half of
    their distribution (all of them where batches are cut to one size); how many records are drawn
    in both steps of a pair (hardly any where batches are dealt from a shuffled deck).
    """
    steps, records = draws.shape
    total = int(draws.sum())
    made = [
        Check(
            name="sampling rate",
            p_value=_binomial(total, draws.size, probability),
            says=f"{total / draws.size:.4g} of the records per step, declared {probability:.4g}",
        )
    ]
    if probability == 1:
        return tuple(made)
    low, high = (int(stats.binom.ppf(share, records, probability)) for share in (0.25, 0.75))
    chance = float(
        stats.binom.cdf(high, records, probability) - stats.binom.cdf(low - 1, records, probability)
    )
    sizes = draws.sum(axis=1)
    inside = int(((sizes >= low) & (sizes <= high)).sum())
    pairs = steps // 2
    repeats = int((draws[0 : 2 * pairs : 2] & draws[1 : 2 * pairs : 2]).sum())
    made.append(
        Check(
            name="batch sizes",
            p_value=_binomial(inside, steps, chance),
            says=f"{inside} of {steps} batches have {low} to {high} records, "
            f"expected {steps * chance:.3g}; standard deviation {float(sizes.std()):.3g}",
        )
    )
    made.append(
        Check(
            name="repeats",
            p_value=_binomial(repeats, pairs * records, probability**2),
            says=f"{repeats} records drawn in two steps running, "
            f"expected {pairs * records * probability**2:.4g}",
        )
    )
    return tuple(made)


def _correlation(left: NDArray[np.float64], right: NDArray[np.float64]) -> tuple[float, float]:
    norm = math.sqrt(float(np.square(left).sum()) * float(np.square(right).sum()))
    if norm == 0:
        return 0.0, 1.0
    value = float(left @ right) / norm
    if abs(value) >= 1 - 1e-12:
        return value, 0.0
    freedom = len(left) - 1
    statistic = abs(value) * math.sqrt(freedom / (1 - value**2))
    return value, float(2 * stats.t.sf(statistic, freedom))


def _mean_is_zero(values: NDArray[np.float64], spare: NDArray[np.float64]) -> float:
    """Two-sided t test of independent noise in `values` against the scale of `spare`."""
    if not len(values):
        return 1.0
    scale = math.sqrt(float(np.square(spare).mean()))
    away = abs(float(values.sum())) / math.sqrt(len(values))
    if scale == 0:
        return 0.0 if away > 0 else 1.0
    return float(2 * stats.t.sf(away / scale, spare.size))


def _binomial(count: int, trials: int, probability: float) -> float:
    if trials == 0:
        return 1.0
    low = stats.binom.cdf(count, trials, probability)
    return _both_sides(low, stats.binom.sf(count - 1, trials, probability))


def _both_sides(low: float, high: float) -> float:
    return min(1.0, 2 * min(float(low), float(high)))
