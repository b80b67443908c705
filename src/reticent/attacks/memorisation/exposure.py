"""Exposure: how many bits of a canary's secret a model gives away (Carlini et al. 2019).

exposure = log2 |R| - log2 rank, for the rank of the canary's log-perplexity among all fillings R
(definition 2). A model that never saw the canary gives a uniform rank, hence 1/ln 2 = 1.44 bits
on average and up to log2 |R| by luck: one canary proves nothing, ten or more do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from reticent.attacks.memorisation.canaries import Canary, Template
from reticent.attacks.memorisation.search import (
    ROWS,
    TOLERANCE,
    Model,
    Standing,
    sequence_costs,
    standing,
)
from reticent.errors import ConfigError
from reticent.random import seeded

CHANCE_BITS = 1.0 / math.log(2.0)
"""Expected exposure in bits of a canary that was never seen, in a large space."""

EXACT_LIMIT = 1_000_000
_CHEAPER = 10


@dataclass(frozen=True, kw_only=True)
class Exposure:
    """One canary's exposure in bits.

    `rank` is from 1 (likeliest) to |R|, ties counted half: exact, or estimated from a sample of
    `searched` fillings ("interpolated" where at least ten of them were likelier than the canary).
    "extrapolated" says that a skew-normal distribution was fitted to the sample and its tail
    believed (Carlini et al. 2019, section 4.3), capped at log2 |R|; `goodness` is the p-value of
    its Kolmogorov-Smirnov test and `supported` the bits that the sample itself supports.
    `chance` is the probability of a rank at least as low without memorisation; ties count against
    the attacker, and an extrapolated tail isn't believed.
    """

    bits: float
    rank: float
    tied: int
    log2_space: float
    method: Literal["exact", "interpolated", "extrapolated"]
    cost: float
    searched: int
    chance: float
    goodness: float | None = None
    supported: float | None = None


def measure_exposures(
    model: Model,
    canaries: Sequence[Canary],
    *,
    limit: int = EXACT_LIMIT,
    samples: int = 10_000,
    seed: int = 0,
    rows: int = ROWS,
) -> tuple[Exposure, ...]:
    """The exposure of each canary; canaries of one template share one search.

    Exact where at most `limit` evaluations rank the canary: by enumeration of R, or, for a
    `SequenceModel`, of the prefixes that are no dearer than the canary, whatever the size of R.
    Otherwise from `samples` uniform fillings. Memory is that of `rows` evaluations.
    """
    if not canaries:
        raise ConfigError("Expected one canary or more, got none.")
    if samples < 100:
        raise ConfigError(f"Expected samples >= 100 to fit a distribution, got samples={samples}.")
    found: list[Exposure | None] = [None] * len(canaries)
    by_template: dict[Template, list[int]] = {}
    for index, canary in enumerate(canaries):
        by_template.setdefault(canary.template, []).append(index)
    for number, (template, members) in enumerate(by_template.items(), start=1):
        sequences = np.stack([canaries[index].sequence for index in members])
        costs = sequence_costs(model, sequences, rows=rows)
        exact = standing(model, template, costs, limit=limit, rows=rows)
        if exact is not None:
            made = _exact(exact, costs, template)
        else:
            drawn = template.draw(samples, seeded(seed, 103, number))
            sample = sequence_costs(model, drawn, rows=rows)
            made = exposures_by_sampling(sample, costs, log2_space=template.log2_size)
        for index, exposure in zip(members, made, strict=True):
            found[index] = exposure
    return tuple(exposure for exposure in found if exposure is not None)


def exposures_by_sampling(
    sample: NDArray[np.float64], costs: NDArray[np.float64], *, log2_space: float
) -> tuple[Exposure, ...]:
    """Exposures of canaries with `costs` (k,) against the costs (n,) of uniform fillings.

    Where fewer than ten fillings are likelier, the tail is a skew-normal fit: it overstates a
    canary that lies far out, so it is flagged, capped, and never enters `chance`.
    """
    ordered = np.sort(sample)
    count = len(ordered)
    slack = TOLERANCE * np.maximum(np.abs(costs), 1.0)
    less = np.searchsorted(ordered, costs - slack, side="left")
    within = np.searchsorted(ordered, costs + slack, side="right")
    fitted: tuple[float, float, float] | None = None
    goodness: float | None = None
    made = []
    for cost, below, up_to in zip(costs, less, within, strict=True):
        # The canary joins the sample, so that a rank is never 0.
        share = (below + (up_to - below) / 2 + 1) / (count + 1)
        supported = min(log2_space, -math.log2(share))
        bits = supported
        method: Literal["interpolated", "extrapolated"] = "interpolated"
        if below < _CHEAPER:
            if fitted is None:
                fitted = _skew_normal(ordered)
                goodness = float(stats.kstest(ordered, stats.skewnorm(*fitted).cdf).pvalue)
            method = "extrapolated"
            tail = float(stats.skewnorm.logcdf(cost, *fitted)) / math.log(2.0)
            bits = float(np.clip(-tail, 0.0, log2_space)) if not math.isnan(tail) else supported
        made.append(
            Exposure(
                bits=bits,
                rank=max(1.0, 2.0 ** min(log2_space - bits, 1000.0)),
                tied=int(up_to - below) + 1,
                log2_space=log2_space,
                method=method,
                cost=float(cost),
                searched=count,
                chance=float((up_to + 1) / (count + 1)),
                goodness=goodness if method == "extrapolated" else None,
                supported=supported,
            )
        )
    return tuple(made)


def memorisation_chance(exposures: Sequence[Exposure]) -> float:
    """The p-value of all canaries together, if none was seen (Fisher's combination).

    Each canary's rank / |R| is uniform over secrets that were drawn uniformly, whatever the model
    prefers, so -2 sum ln chance is at most chi-squared with 2 n degrees of freedom: exact in a
    large space and conservative in a small one, or where ranks tie. Needs canaries that are
    independent of each other.
    """
    statistic = -2.0 * sum(math.log(exposure.chance) for exposure in exposures)
    return float(stats.chi2.sf(statistic, 2 * len(exposures)))


def _exact(found: Standing, costs: NDArray[np.float64], template: Template) -> tuple[Exposure, ...]:
    made = []
    for cost, less, tied in zip(costs, found.less, found.tied, strict=True):
        rank = float(less) + (float(tied) + 1) / 2
        made.append(
            Exposure(
                bits=template.log2_size - math.log2(rank),
                rank=rank,
                tied=int(tied),
                log2_space=template.log2_size,
                method="exact",
                cost=float(cost),
                searched=found.visited,
                chance=min(1.0, float(less + tied) / template.size),
            )
        )
    return tuple(made)


def _skew_normal(sample: NDArray[np.float64]) -> tuple[float, float, float]:
    """Shape, location and scale by maximum likelihood, started from the sample's moments."""
    shape, location, scale = stats.skewnorm.fit(sample)
    return float(shape), float(location), float(scale)
