"""The figures of membership findings, and the threshold that other targets choose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from reticent.attacks.finding import Interval
from reticent.audit.epsilon import epsilon_lower_bounds
from reticent.audit.rates import AcrossTargets, Roc, Spread, pooled

FPRS = (0.001, 0.01)
AUC, ADVANTAGE = "AUC", "advantage"
_PLACES = 800


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A metric's value, its interval, and its floor: what guessing gives."""

    metric: str
    value: float
    ci: Interval
    floor: float


def figures(curve: Roc) -> tuple[Figure, ...]:
    """The figures that a curve resolves, sharpest first: TPR at the lowest FPR leads."""
    found = []
    for fpr in FPRS:
        if curve.resolves(fpr):
            rate = curve.operating_point(fpr).tpr
            found.append(Figure(metric=tpr_name(fpr), value=rate.value, ci=rate.ci, floor=fpr))
    return (
        *found,
        Figure(metric=AUC, value=curve.auc, ci=curve.auc_ci, floor=0.5),
        Figure(metric=ADVANTAGE, value=curve.advantage, ci=curve.advantage_interval(), floor=0.0),
    )


def means(curves: Sequence[Roc]) -> dict[str, float]:
    """The mean of each metric that the targets resolve."""
    if not curves:
        return {}
    across = AcrossTargets(curves=tuple(curves))
    found = {AUC: across.auc.mean, ADVANTAGE: across.advantage.mean}
    for fpr in FPRS:
        spread = across.tpr_at(fpr)
        if isinstance(spread, Spread):
            found[tpr_name(fpr)] = spread.mean
    return found


def spreads(curves: Sequence[Roc]) -> dict[str, Any]:
    """AUC and low-FPR rates over several targets, ready for JSON."""
    told: dict[str, Any] = {"count": len(curves)}
    if not curves:
        return told
    across = AcrossTargets(curves=tuple(curves))
    for name, spread in (
        (AUC, across.auc),
        *((tpr_name(fpr), across.tpr_at(fpr)) for fpr in FPRS),
    ):
        told[name] = (
            {"mean": spread.mean, "sd": spread.sd, "ci": list(spread.ci)}
            if isinstance(spread, Spread)
            else str(spread)
        )
    return told


def transferred_threshold(
    curves: Sequence[Roc], *, members: int, non_members: int, delta: float
) -> float:
    """The threshold whose rates over other targets promise the greatest epsilon lower bound.

    Promise: the bound that these rates would show on `members` and `non_members` records. A bound
    at the pooled counts themselves would prefer rates too small for one target to show. Where
    nothing is promised, the threshold of greatest advantage.
    """
    curve = pooled(curves)
    last = len(curve.thresholds) - 1
    near = np.unique(np.geomspace(1, last + 1, _PLACES).astype(np.int64)) - 1
    places = np.unique(np.concatenate([near, last - near]))
    tpr, fpr = curve.tpr[places], curve.fpr[places]
    bounds = epsilon_lower_bounds(
        tpr * members,
        (1 - tpr) * members,
        fpr * non_members,
        (1 - fpr) * non_members,
        delta=delta,
    )
    best = bounds if bounds.max() > 0 else tpr - fpr
    return float(curve.thresholds[places[int(np.argmax(best))]])


def tpr_name(fpr: float) -> str:
    """The metric's name, "TPR at 1% FPR"."""
    return f"TPR at {100 * fpr:g}% FPR"
