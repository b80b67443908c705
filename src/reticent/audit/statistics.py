"""Intervals and limits: what a measured number says about the population behind it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from reticent.attacks.finding import Interval
from reticent.random import seeded

RESAMPLES = 1_000
CONFIDENCE = 0.95
_CHUNK = 5_000_000


def clopper_pearson(
    successes: int, trials: int, *, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Exact two-sided interval for a proportion (Clopper & Pearson 1934)."""
    if not 0 <= successes <= trials or trials < 1:
        raise ValueError(
            f"Expected 0 <= successes <= trials and trials >= 1, got successes={successes}, "
            f"trials={trials}."
        )
    tail = (1 - confidence) / 2
    low = 0.0 if successes == 0 else stats.beta.ppf(tail, successes, trials - successes + 1)
    high = 1.0
    if successes < trials:
        high = stats.beta.ppf(1 - tail, successes + 1, trials - successes)
    return float(low), float(high)


def resampled_weights(
    clusters: int,
    *,
    strata: NDArray[np.int64] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> NDArray[np.float32]:
    """How often each cluster is drawn in each bootstrap resample, shape (resamples, clusters).

    With `strata` (clusters,), clusters are drawn within their own stratum only.
    """
    rng = seeded(seed, 97)
    groups = np.zeros(clusters, dtype=np.int64) if strata is None else strata
    weights = np.zeros((resamples, clusters), dtype=np.float32)
    for stratum in np.unique(groups):
        members = np.flatnonzero(groups == stratum)
        size = len(members)
        drawn = rng.integers(size, size=(resamples, size))
        drawn += np.arange(resamples)[:, None] * size
        counts = np.bincount(drawn.reshape(-1), minlength=resamples * size)
        weights[:, members] = counts.reshape(resamples, size)
    return weights


def expanded_interval(
    samples: NDArray[np.floating], clusters: int, *, confidence: float = CONFIDENCE
) -> Interval:
    """The percentile interval, widened for few clusters (Hesterberg 2015, section 4.3).

    A bootstrap of n clusters has a variance (n - 1) / n too small and knows no t quantile; the
    expanded percentile uses tail Phi(-sqrt(n / (n - 1)) t). With one cluster nothing is known
    about the spread, and the interval is (-inf, inf) unless all samples are equal.
    """
    low, high = float(np.min(samples)), float(np.max(samples))
    if low == high:
        return low, high
    if clusters < 2:
        return -math.inf, math.inf
    quantile = stats.t.ppf(0.5 + confidence / 2, clusters - 1)
    tail = float(stats.norm.cdf(-math.sqrt(clusters / (clusters - 1)) * quantile))
    bounds = np.quantile(samples, [tail, 1 - tail])
    return float(bounds[0]), float(bounds[1])


@dataclass(frozen=True, kw_only=True)
class Bootstrap:
    """Point values (s,) of s statistics and their joint resamples (resamples, s).

    The statistics share each resample, so a difference of two columns is paired. `clusters` is
    the number of independent units behind the smallest stratum.
    """

    values: NDArray[np.float64]
    samples: NDArray[np.float64]
    clusters: int

    def columns(self, kept: list[int]) -> Bootstrap:
        """The statistics of these columns alone, their resamples still shared."""
        return Bootstrap(
            values=self.values[kept], samples=self.samples[:, kept], clusters=self.clusters
        )

    def interval(self, column: int) -> Interval:
        """The interval of one statistic."""
        return expanded_interval(self.samples[:, column], self.clusters)

    def difference(
        self, column: int, minus: int, *, confidence: float = CONFIDENCE
    ) -> tuple[float, Interval]:
        """One statistic minus another, with its paired interval."""
        apart = self.samples[:, column] - self.samples[:, minus]
        value = float(self.values[column] - self.values[minus])
        return value, expanded_interval(apart, self.clusters, confidence=confidence)


def bootstrap_balanced(
    hits: NDArray[np.floating],
    classes: NDArray[np.int64],
    clusters: NDArray[np.int64],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Bootstrap:
    """Balanced accuracy of s attackers on n decisions, resampled by cluster.

    `hits` (n, s) in [0, 1], `classes` (n,) the true value behind each decision, `clusters` (n,)
    the user (or record). The statistic is the mean over the values of the mean hit rate. Clusters
    are drawn within their value where each has one value and each value has two clusters or more.
    Where every cluster is its own value (identity) the statistic is the mean of the users'
    recalls, and users are drawn. Otherwise clusters are drawn freely and values that a resample
    lacks are left out of its mean.
    """
    _values, kind = np.unique(classes, return_inverse=True)
    _names, owner = np.unique(clusters, return_inverse=True)
    kinds, owners = int(kind.max()) + 1, int(owner.max()) + 1
    counts = np.zeros((owners, kinds))
    np.add.at(counts, (owner, kind), 1.0)
    sums = np.zeros((owners, kinds, hits.shape[1]))
    np.add.at(sums, (owner, kind), hits)
    values = (sums.sum(axis=0) / counts.sum(axis=0)[:, None]).mean(axis=0)

    pure = bool(((counts > 0).sum(axis=1) == 1).all())
    per_kind = (counts > 0).sum(axis=0)
    strata, smallest = None, owners
    if pure and per_kind.max() == 1:
        recalls = sums[np.arange(owners), counts.argmax(axis=1)] / counts.max(axis=1)[:, None]
        weights = resampled_weights(owners, resamples=resamples, seed=seed)
        samples = weights.astype(np.float64) @ recalls / owners
        return Bootstrap(values=values, samples=samples, clusters=owners)
    if pure and per_kind.min() >= 2:
        strata, smallest = counts.argmax(axis=1), int(per_kind.min())
    parts = []
    batch = max(1, _CHUNK // owners)
    for start in range(0, resamples, batch):
        weights = resampled_weights(
            owners, strata=strata, resamples=min(batch, resamples - start), seed=seed + start
        ).astype(np.float64)
        total = weights @ counts
        recall = (weights @ sums.reshape(owners, -1)).reshape(*total.shape, -1)
        recall /= np.maximum(total, 1e-300)[:, :, None]
        present = total > 0
        parts.append((recall * present[:, :, None]).sum(axis=1) / present.sum(axis=1)[:, None])
    return Bootstrap(values=values, samples=np.concatenate(parts), clusters=smallest)


def bootstrap_ratio(
    numerators: NDArray[np.floating],
    denominator: NDArray[np.floating],
    clusters: NDArray[np.int64],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Bootstrap:
    """Ratios of sums, resampled by cluster: numerators (n, s) over one denominator (n,)."""
    _names, owner = np.unique(clusters, return_inverse=True)
    owners = int(owner.max()) + 1
    above = np.zeros((owners, numerators.shape[1]))
    np.add.at(above, owner, numerators)
    below = np.bincount(owner, weights=denominator, minlength=owners)
    parts = []
    batch = max(1, _CHUNK // owners)
    for start in range(0, resamples, batch):
        weights = resampled_weights(
            owners, resamples=min(batch, resamples - start), seed=seed + start
        ).astype(np.float64)
        parts.append((weights @ above) / (weights @ below)[:, None])
    return Bootstrap(
        values=above.sum(axis=0) / below.sum(), samples=np.concatenate(parts), clusters=owners
    )
