"""How well scores tell members from others: the ROC curve, its rates, and their intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from reticent.attacks.finding import Interval
from reticent.audit.statistics import CONFIDENCE, clopper_pearson
from reticent.errors import DataError

LOW_FPRS = (0.001, 0.01, 0.1)
_EXPECTED_FALSE_POSITIVES = 3


@dataclass(frozen=True, kw_only=True)
class Rate:
    """k of n, as a share, with its Clopper-Pearson interval."""

    value: float
    ci: Interval
    k: int
    n: int

    @classmethod
    def of(cls, k: int, n: int, *, confidence: float = CONFIDENCE) -> Rate:
        """The rate k / n."""
        return cls(value=k / n, ci=clopper_pearson(k, n, confidence=confidence), k=k, n=n)


@dataclass(frozen=True, kw_only=True)
class Unresolvable:
    """A false-positive rate too small for `n` non-members: fewer than three are expected at it."""

    fpr: float
    n: int

    def __str__(self) -> str:
        needed = math.ceil(_EXPECTED_FALSE_POSITIVES / self.fpr)
        return f"not resolvable with n={self.n} non-members (FPR {self.fpr:g} takes {needed})"


@dataclass(frozen=True, kw_only=True)
class OperatingPoint:
    """What a fixed threshold gives: records that score `threshold` or more count as members."""

    threshold: float
    tpr: Rate
    fpr: Rate


@dataclass(frozen=True, kw_only=True, eq=False)
class Roc:
    """True and false positives at every distinct score, from the highest down.

    `thresholds` (k,) fall; `true_positives` and `false_positives` (k,) count members and
    non-members that score the threshold or more. Tied records cross together, so no order among
    them can be invented.
    """

    thresholds: NDArray[np.float64]
    true_positives: NDArray[np.int64]
    false_positives: NDArray[np.int64]
    members: int
    non_members: int

    @property
    def tpr(self) -> NDArray[np.float64]:
        """True-positive rates (k,), rising."""
        return self.true_positives / self.members

    @property
    def fpr(self) -> NDArray[np.float64]:
        """False-positive rates (k,), rising."""
        return self.false_positives / self.non_members

    @property
    def auc(self) -> float:
        """The chance that a member scores above a non-member, ties counted half."""
        gained, lost = self._steps()
        below = self.non_members - np.cumsum(lost)
        return float((gained * (below + lost / 2)).sum() / (self.members * self.non_members))

    @property
    def auc_ci(self) -> Interval:
        """The 95 % interval of `auc`."""
        return self.auc_interval()

    def auc_interval(self, *, confidence: float = CONFIDENCE) -> Interval:
        """DeLong's interval (DeLong et al. 1988) on the logit scale (Pepe 2003, section 5.2).

        Where DeLong's variance is zero (perfect separation, or nothing but ties) the interval is
        the exact one of min(members, non_members) disjoint pairs instead.
        """
        area = self.auc
        gained, lost = self._steps()
        below = (self.non_members - np.cumsum(lost) + lost / 2) / self.non_members
        above = (np.cumsum(gained) - gained / 2) / self.members
        variance = _mean_variance(below, gained) + _mean_variance(above, lost)
        tail = (1 - confidence) / 2
        if variance <= 0 or not 0 < area < 1:
            pairs = min(self.members, self.non_members)
            won = area * pairs
            low = 0.0 if won == 0 else float(stats.beta.ppf(tail, won, pairs - won + 1))
            high = 1.0 if won == pairs else float(stats.beta.ppf(1 - tail, won + 1, pairs - won))
            return low, high
        centre = math.log(area / (1 - area))
        reach = float(stats.norm.ppf(1 - tail)) * math.sqrt(variance) / (area * (1 - area))
        return _expit(centre - reach), _expit(centre + reach)

    @property
    def advantage(self) -> float:
        """The largest TPR - FPR over all thresholds, at least 0 (Yeom et al. 2018, section 3).

        The threshold is the best one for these very scores, so the figure errs upwards.
        """
        return max(0.0, float((self.tpr - self.fpr).max()))

    def advantage_interval(self, *, confidence: float = CONFIDENCE) -> Interval:
        """An interval for `advantage` that pays for its choice of threshold (Massart 1990).

        Both score distributions lie in their Dvoretzky-Kiefer-Wolfowitz bands at once.
        """
        reach = sum(
            math.sqrt(math.log(4 / (1 - confidence)) / (2 * n))
            for n in (self.members, self.non_members)
        )
        return max(0.0, self.advantage - reach), min(1.0, self.advantage + reach)

    def resolves(self, fpr: float) -> bool:
        """Whether three false positives or more are expected at this false-positive rate."""
        return fpr * self.non_members >= _EXPECTED_FALSE_POSITIVES - 1e-9

    def tpr_at(self, fpr: float, *, confidence: float = CONFIDENCE) -> Rate | Unresolvable:
        """The true-positive rate at a false-positive rate of at most `fpr` in this sample.

        No interpolation: the point is one that a threshold reaches. `Unresolvable` where fewer
        than three false positives are expected.
        """
        if not self.resolves(fpr):
            return Unresolvable(fpr=fpr, n=self.non_members)
        return self.operating_point(fpr, confidence=confidence).tpr

    def operating_point(self, fpr: float, *, confidence: float = CONFIDENCE) -> OperatingPoint:
        """The lowest threshold whose false-positive rate is at most `fpr`, with both rates."""
        allowed = math.floor(fpr * self.non_members + 1e-9)
        index = int(np.searchsorted(self.false_positives, allowed, side="right")) - 1
        return self._point(index, confidence)

    def at_threshold(self, threshold: float, *, confidence: float = CONFIDENCE) -> OperatingPoint:
        """Both rates at a threshold that was fixed elsewhere."""
        index = int(np.searchsorted(-self.thresholds, -threshold, side="right")) - 1
        return OperatingPoint(
            threshold=threshold,
            tpr=self._point(index, confidence).tpr,
            fpr=self._point(index, confidence).fpr,
        )

    def points(self, limit: int = 200) -> dict[str, list[float]]:
        """At most `limit` points {"fpr": [...], "tpr": [...]} for a log-log plot.

        Corners only (the highest TPR of each FPR), evenly spread over the logarithm of the false
        positives, with the first and the last kept.
        """
        last = np.append(np.diff(self.false_positives) > 0, True)
        corners = np.flatnonzero(last)
        if len(corners) > limit:
            heights = np.log(np.maximum(self.false_positives[corners], 0.5))
            marks = np.linspace(heights[0], heights[-1], limit)
            corners = corners[np.unique(np.searchsorted(heights, marks - 1e-12))]
        return {
            "fpr": [float(value) for value in self.fpr[corners]],
            "tpr": [float(value) for value in self.tpr[corners]],
        }

    def details(self, fprs: Sequence[float] = LOW_FPRS) -> dict[str, Any]:
        """What a finding keeps of this curve, ready for JSON."""
        return {
            "members": self.members,
            "non_members": self.non_members,
            "auc": self.auc,
            "auc_ci": list(self.auc_ci),
            "advantage": self.advantage,
            "advantage_ci": list(self.advantage_interval()),
            "tpr_at": {f"{fpr:g}": self._told(fpr) for fpr in fprs},
            "roc": self.points(),
        }

    def _told(self, fpr: float) -> dict[str, Any] | str:
        if not self.resolves(fpr):
            return str(Unresolvable(fpr=fpr, n=self.non_members))
        point = self.operating_point(fpr)
        return {
            "value": point.tpr.value,
            "ci": list(point.tpr.ci),
            "fpr": point.fpr.value,
            "fpr_ci": list(point.fpr.ci),
        }

    def _point(self, index: int, confidence: float) -> OperatingPoint:
        """The point at `index`; index -1 is the threshold above every score."""
        found = (0, 0) if index < 0 else (self.true_positives[index], self.false_positives[index])
        return OperatingPoint(
            threshold=math.inf if index < 0 else float(self.thresholds[index]),
            tpr=Rate.of(int(found[0]), self.members, confidence=confidence),
            fpr=Rate.of(int(found[1]), self.non_members, confidence=confidence),
        )

    def _steps(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Members and non-members (k,) at each threshold itself."""
        return np.diff(self.true_positives, prepend=0), np.diff(self.false_positives, prepend=0)


def roc(scores: ArrayLike, truth: ArrayLike) -> Roc:
    """The ROC curve of `scores` (n,), higher for members, against `truth` (n,) booleans.

    Raises `DataError` for NaN scores, lengths that differ, or a truth without both kinds.
    """
    values = np.asarray(scores, dtype=np.float64)
    member = np.asarray(truth)
    if values.ndim != 1 or member.shape != values.shape:
        raise DataError(
            f"Expected scores and truth of one shape (n,), got scores={values.shape}, "
            f"truth={member.shape}."
        )
    if member.dtype != np.bool_ and not bool(np.isin(member, (0, 1)).all()):
        raise DataError("Expected truth as booleans (or 0 and 1), got other values.")
    if np.isnan(values).any():
        raise DataError(f"Expected scores without NaN, got {int(np.isnan(values).sum())} of them.")
    order = np.argsort(-values, kind="stable")
    values, member = values[order], member[order].astype(bool)
    members = int(member.sum())
    if not 0 < members < len(member):
        raise DataError(
            f"Expected members and non-members, got members={members} of n={len(member)}."
        )
    ends = np.flatnonzero(np.append(values[1:] != values[:-1], True))
    hits = np.cumsum(member, dtype=np.int64)[ends]
    return Roc(
        thresholds=values[ends],
        true_positives=hits,
        false_positives=ends + 1 - hits,
        members=members,
        non_members=len(member) - members,
    )


def pooled(curves: Sequence[Roc]) -> Roc:
    """One curve over the records of several targets, at common thresholds.

    The same record may stand behind several targets, so intervals of the pooled curve, which take
    records for independent, are too narrow; `AcrossTargets` says how far targets differ.
    """
    levels = np.concatenate([curve.thresholds for curve in curves])
    gained = np.concatenate([np.diff(curve.true_positives, prepend=0) for curve in curves])
    lost = np.concatenate([np.diff(curve.false_positives, prepend=0) for curve in curves])
    distinct, place = np.unique(-levels, return_inverse=True)
    return Roc(
        thresholds=-distinct,
        true_positives=_cumulated(place, gained, len(distinct)),
        false_positives=_cumulated(place, lost, len(distinct)),
        members=sum(curve.members for curve in curves),
        non_members=sum(curve.non_members for curve in curves),
    )


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A figure over several targets: mean, standard deviation, extremes, t interval of the mean.

    `ci` is from the lowest to the highest value possible where there is one target only.
    """

    mean: float
    sd: float
    low: float
    high: float
    ci: Interval
    targets: int

    @classmethod
    def of(cls, values: Sequence[float], *, confidence: float = CONFIDENCE) -> Spread:
        """The spread of one share per target."""
        array = np.asarray(values, dtype=np.float64)
        mean, count = float(array.mean()), len(array)
        sd, ci = 0.0, (0.0, 1.0)
        if count > 1:
            sd = float(array.std(ddof=1))
            reach = float(stats.t.ppf(0.5 + confidence / 2, count - 1)) * sd / math.sqrt(count)
            ci = (max(0.0, mean - reach), min(1.0, mean + reach))
        return cls(
            mean=mean, sd=sd, low=float(array.min()), high=float(array.max()), ci=ci, targets=count
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class AcrossTargets:
    """The curves of one attack on several targets."""

    curves: tuple[Roc, ...]

    def __post_init__(self) -> None:
        if not self.curves:
            raise DataError("Expected one curve or more, got none.")

    @property
    def pooled(self) -> Roc:
        """All targets at common thresholds; see `pooled` for what its intervals leave out."""
        return pooled(self.curves)

    @property
    def auc(self) -> Spread:
        """The areas under the targets' curves."""
        return Spread.of([curve.auc for curve in self.curves])

    @property
    def advantage(self) -> Spread:
        """The targets' advantages."""
        return Spread.of([curve.advantage for curve in self.curves])

    def tpr_at(self, fpr: float) -> Spread | Unresolvable:
        """The targets' true-positive rates at `fpr`; each target must resolve it by itself."""
        rates = [curve.tpr_at(fpr) for curve in self.curves]
        found = [rate.value for rate in rates if isinstance(rate, Rate)]
        if len(found) < len(rates):
            return Unresolvable(fpr=fpr, n=min(curve.non_members for curve in self.curves))
        return Spread.of(found)


def _mean_variance(values: NDArray[np.float64], counts: NDArray[np.int64]) -> float:
    """The variance of the mean of `values`, each met `counts` times."""
    total = int(counts.sum())
    if total < 2:
        return 0.0
    mean = float((values * counts).sum()) / total
    return float((counts * (values - mean) ** 2).sum()) / (total - 1) / total


def _cumulated(
    place: NDArray[np.int64], steps: NDArray[np.int64], levels: int
) -> NDArray[np.int64]:
    sums = np.bincount(place, weights=steps, minlength=levels)
    return np.cumsum(np.rint(sums)).astype(np.int64)


def _expit(value: float) -> float:
    return 1 / (1 + math.exp(-value)) if value > -700 else 0.0
