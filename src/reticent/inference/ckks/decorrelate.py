"""Records made ready for few steps of descent: features of one size that don't go together.

Descent crawls along directions in which records hardly differ, and on ciphertexts every step is a
round trip. The client owns the records, so it can turn and stretch them in the clear, before it
encrypts; the trained weights then belong to records that are made ready in the same way.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from reticent.errors import DataError

_REACH = 3.0
"""Standard deviations beyond which a feature is cut off: scores must stay where the cubic holds."""

_SHRINK = 0.3
"""Added to the variances of standardised features: the thinnest directions stay thin."""

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Decorrelation:
    """`mean`, `spread` (features,), `turn` (features, features): the client's own, not to be sent.

    They tell about its records as much as any average of them does.
    """

    mean: Array = field(repr=False)
    spread: Array = field(repr=False)
    turn: Array = field(repr=False)

    def apply(self, x: Array) -> Array:
        """Records (n, features), turned and scaled as those that this was made of."""
        made: Array = np.clip((x - self.mean) / self.spread, -_REACH, _REACH) @ self.turn
        return made


def decorrelation(x: Array) -> Decorrelation:
    """The one of records x (n, features): their squared norm is 1 on average afterwards.

    Raises `DataError` for fewer than two records, or numbers that are not finite.
    """
    x = np.asarray(x, dtype=np.float64)
    if x.ndim != 2 or len(x) < 2 or not np.isfinite(x).all():
        raise DataError(f"Expected two finite records (n, features) or more, got shape={x.shape}.")
    mean, spread = x.mean(axis=0), x.std(axis=0)
    spread = np.where(spread > 0, spread, 1.0)
    cut = np.clip((x - mean) / spread, -_REACH, _REACH)
    variances, directions = np.linalg.eigh(np.cov(cut.T).reshape(x.shape[1], x.shape[1]))
    turn = directions / np.sqrt(np.maximum(variances, 0.0) + _SHRINK)
    size = np.sqrt(((cut @ turn) ** 2).sum(axis=1).mean())
    return Decorrelation(mean=mean, spread=spread, turn=turn / max(float(size), 1e-12))
