"""What protection costs in utility: the paired mean loss per record with one-sided limits."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

CONFIDENCE = 0.95
# Below this many changed records the t limit is too bold and the exact one takes over.
_FEW = 5


@dataclass(frozen=True, kw_only=True)
class UtilityLoss:
    """Mean loss of the protected model against the undefended one, and its one-sided limits.

    `lower` and `upper` each hold at `confidence`; together they are a two-sided interval at
    2 * confidence - 1.
    """

    loss: float
    lower: float
    upper: float
    confidence: float
    n: int

    def within(self, maximum: float) -> bool:
        """Whether a loss above `maximum` is ruled out at this confidence."""
        return self.upper <= maximum

    def exceeds(self, maximum: float) -> bool:
        """Whether a loss of `maximum` or less is ruled out at this confidence."""
        return self.lower > maximum


def utility_loss(
    baseline: NDArray[np.floating],
    protected: NDArray[np.floating],
    *,
    clusters: NDArray[np.int64] | None = None,
    confidence: float = CONFIDENCE,
) -> UtilityLoss:
    """One-sided paired tests of utility per record (1 = right, or any score; higher is better).

    The limits are the t limits of the paired difference with cluster-robust standard error
    (users, where given). For right/wrong scores that rarely differ the t limits are too bold: the
    upper one is then at least what the exact limit for the share of records that got worse
    allows, and the lower one at most what the exact limit for those that got better leaves. With a
    single record or user nothing is known about the spread, and the limits are infinite.
    """
    lost = np.asarray(baseline, dtype=np.float64) - np.asarray(protected, dtype=np.float64)
    n = len(lost)
    owner = np.arange(n) if clusters is None else np.unique(clusters, return_inverse=True)[1]
    count, mean = int(owner.max()) + 1, float(lost.mean())
    if count < 2:
        return UtilityLoss(loss=mean, lower=-math.inf, upper=math.inf, confidence=confidence, n=n)
    sums = np.bincount(owner, weights=lost - mean, minlength=count)
    error = math.sqrt(count / (count - 1) * float((sums**2).sum())) / n
    reach = float(stats.t.ppf(confidence, count - 1)) * error
    lower, upper = mean - reach, mean + reach
    if bool(np.isin(lost, (-1.0, 0.0, 1.0)).all()):
        worse, better = int((lost > 0).sum()), int((lost < 0).sum())
        if worse < _FEW:
            upper = max(upper, _most(worse, n, confidence) - better / n)
            lower = min(lower, _least(worse, n, confidence) - better / n)
        if better < _FEW:
            upper = max(upper, worse / n - _least(better, n, confidence))
            lower = min(lower, worse / n - _most(better, n, confidence))
    return UtilityLoss(loss=mean, lower=lower, upper=upper, confidence=confidence, n=n)


def _most(events: int, n: int, confidence: float) -> float:
    """Exact upper limit of a share (Clopper & Pearson 1934)."""
    return 1.0 if events == n else float(stats.beta.ppf(confidence, events + 1, n - events))


def _least(events: int, n: int, confidence: float) -> float:
    """Exact lower limit of a share (Clopper & Pearson 1934)."""
    return 0.0 if events == 0 else float(stats.beta.ppf(1 - confidence, events, n - events + 1))
