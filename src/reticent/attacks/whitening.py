"""Standardised and whitened features: the form in which attackers are fed a view.

Shrinking or rotating features hides nothing from an attacker who undoes it first, so every
attacker here does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

KEEP_ALL = 512
"""Up to this many features no direction is dropped, however quiet it is."""
REDUCED = 192
"""Wider features (spatial maps) are reduced to this many principal components."""
_QUIET = 1e-12
_CLIP = 12.0


@dataclass(frozen=True, kw_only=True)
class Whitening:
    """An affine map fitted on the attacker's own records: `apply` gives unit covariance.

    `mean`, `scale` (d,) standardise each feature; `rotation` (d, r) turns standardised features
    onto principal components and divides each by its standard deviation.
    """

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    rotation: NDArray[np.float64]

    @classmethod
    def fit(cls, features: NDArray[np.floating], *, seed: int = 0) -> Whitening:
        """The whitening of `features` (n, ...), flattened per record.

        Directions whose variance is below 1e-12 of the largest are float32 rounding and are
        dropped; anything louder is kept, because a leak may sit in a quiet direction.
        """
        flat = features.reshape(len(features), -1).astype(np.float64)
        mean, scale = flat.mean(axis=0), flat.std(axis=0)
        scale = np.where(scale > 0, scale, np.inf)
        standardised = (flat - mean) / scale
        width = standardised.shape[1]
        if width <= KEEP_ALL:
            variances, directions = np.linalg.eigh(standardised.T @ standardised / len(flat))
        else:
            variances, directions = _leading(standardised, seed)
        kept = variances > _QUIET * max(float(variances.max()), 1e-300)
        order = np.flatnonzero(kept)[::-1]
        rotation = directions[:, order] / np.sqrt(variances[order])
        return cls(mean=mean, scale=scale, rotation=rotation)

    def standardise(self, features: NDArray[np.floating]) -> NDArray[np.float64]:
        """Features (n, ...) as (n, d), zero mean and unit variance per feature.

        Cut at 12 deviations: a feature that is almost always off would otherwise throw the few
        records in which it is on far out of any range an attacker learned.
        """
        flat = features.reshape(len(features), -1).astype(np.float64)
        return np.asarray(np.clip((flat - self.mean) / self.scale, -_CLIP, _CLIP))

    def apply(self, features: NDArray[np.floating]) -> NDArray[np.float64]:
        """Features (n, ...) as (n, r), decorrelated, loudest principal component first."""
        return np.asarray(np.clip(self.standardise(features) @ self.rotation, -_CLIP, _CLIP))

    def apply_tensor(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """`standardise` and `apply` for tensors, float32 out.

        In double until then: quiet directions need it.
        """
        mean, scale, rotation = map(torch.from_numpy, (self.mean, self.scale, self.rotation))
        standardised = ((features.flatten(1).double() - mean) / scale).clamp(-_CLIP, _CLIP)
        whitened = (standardised @ rotation).clamp(-_CLIP, _CLIP)
        return standardised.float(), whitened.float()


def _leading(
    matrix: NDArray[np.float64], seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Leading variances and directions by a randomised range finder (Halko et al. 2011)."""
    rank = min(REDUCED, min(matrix.shape))
    work = matrix.astype(np.float32)
    probe = np.random.default_rng(seed).standard_normal(
        (work.shape[1], min(rank + 16, *work.shape))
    )
    basis = work @ probe.astype(np.float32)
    for _ in range(2):
        basis, _upper = np.linalg.qr(work @ (work.T @ np.linalg.qr(basis)[0]))
    _left, values, rows = np.linalg.svd(basis.T @ work, full_matrices=False)
    variances = values[:rank].astype(np.float64) ** 2 / len(matrix)
    return variances[::-1], rows[:rank][::-1].T.astype(np.float64)
