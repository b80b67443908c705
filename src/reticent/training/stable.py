"""Softmax regression whose weights hardly move when one record comes or goes.

The loss is a sum over records plus `ridge` / 2 |W|^2, so it is `ridge`-strongly convex, and one
record adds a function of slope at most L = sqrt(2) sqrt(row_norm^2 + 1). Its minimiser then moves
by at most L / ridge in Frobenius norm (Chaudhuri, Monteleoni & Sarwate 2011, lemma 7): what noise
must hide is known before a record is read, whatever the records are. Nothing here is private yet:
whoever shows the weights, or answers that come of them, adds the noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from reticent.errors import ConfigError, DataError

# The minimiser is found up to this share of the slope; twice the rest is part of the sensitivity.
_TOLERANCE = 1e-4
_MOST_STEPS = 20_000

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class StableHead:
    """`weights` (classes, features + 1), the constant's last: secret until noise is added.

    Adding or removing one record moves them by at most `sensitivity` in Frobenius norm. Rows of
    more than `row_norm` in Euclidean norm were scaled down to it.
    """

    weights: Array = field(repr=False)
    sensitivity: float
    row_norm: float

    @property
    def classes(self) -> int:
        """Number of outputs."""
        return len(self.weights)

    @property
    def features(self) -> int:
        """Numbers of one input."""
        return int(self.weights.shape[1]) - 1


def sensitivity(*, ridge: float, row_norm: float) -> float:
    """How far one record moves the weights at most, in Frobenius norm."""
    return (1 + 2 * _TOLERANCE) * _slope(row_norm) / ridge


def train_stable(
    x: Array, y: NDArray[Any], *, classes: int, ridge: float, row_norm: float = 1.0
) -> StableHead:
    """The head for records x (n, d) with labels y (n,) from 0 to `classes` - 1.

    `classes`, `ridge` and `row_norm` are public: chosen without a look at the records. Raises
    `ConfigError` for constants that are none, `DataError` for records that don't fit.
    """
    if not (classes >= 2 and 0 < ridge < math.inf and 0 < row_norm < math.inf):
        raise ConfigError(
            f"Expected classes >= 2, ridge > 0 and row_norm > 0, got {classes=}, {ridge=}, "
            f"{row_norm=}."
        )
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y)
    if x.ndim != 2 or y.shape != (len(x),) or not len(x) or not np.isfinite(x).all():
        raise DataError(
            f"Expected finite records (n, d) with a label each, got x={x.shape}, y={y.shape}."
        )
    if y.dtype.kind not in "iu" or y.min() < 0 or y.max() >= classes:
        raise DataError(f"Expected labels from 0 to {classes - 1}. Encode them as whole numbers.")
    rows = np.hstack([clipped(x, row_norm), np.ones((len(x), 1))])
    truth = np.eye(classes)[y]

    def loss(flat: Array) -> tuple[float, Array]:
        weights = flat.reshape(classes, -1)
        scores = rows @ weights.T
        total = special.logsumexp(scores, axis=1).sum() - (scores * truth).sum()
        slope = (special.softmax(scores, axis=1) - truth).T @ rows + ridge * weights
        return float(total + ridge / 2 * (flat**2).sum()), slope.reshape(-1)

    start = np.zeros(classes * rows.shape[1])
    found = optimize.minimize(
        loss,
        start,
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": _MOST_STEPS, "maxfun": _MOST_STEPS, "ftol": 0.0, "gtol": 1e-9},
    ).x
    left = float(np.linalg.norm(loss(found)[1]))
    if not left <= _TOLERANCE * _slope(row_norm):
        raise DataError(
            f"The minimiser wasn't found: a slope of {left:.2g} is left. Its sensitivity isn't "
            "known then. Scale the features to about one size, or raise the ridge."
        )
    return StableHead(
        weights=found.reshape(classes, -1),
        sensitivity=sensitivity(ridge=ridge, row_norm=row_norm),
        row_norm=row_norm,
    )


def clipped(x: Array, row_norm: float) -> Array:
    """Rows (n, d), those longer than `row_norm` scaled down to it."""
    lengths = np.linalg.norm(x, axis=1, keepdims=True)
    # A little short, so that rounding adds nothing.
    made: Array = x * ((1 - 1e-12) * row_norm / np.maximum(lengths, row_norm))
    return made


def _slope(row_norm: float) -> float:
    return math.sqrt(2 * (row_norm**2 + 1))
