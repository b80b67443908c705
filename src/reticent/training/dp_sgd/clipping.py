"""How far each example may move the sum: factors that bound every example's contribution.

Each rule turns squared norms, shape (groups, B), into factors of the same shape, and states
`clip_norm`, the L2 sensitivity of the sum of the scaled gradients when one example is added or
removed. Factors are computed in float64 and aim `MARGIN` below the bound, which pays for the
rounding of the norms (below 1e-5), of the float32 sum, and of the noise's grid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from reticent.errors import ConfigError

MARGIN = 2.0**-13


class Clipping(Protocol):
    """A rule that bounds contributions."""

    @property
    def clip_norm(self) -> float:
        """The sensitivity of the clipped sum."""

    @property
    def per_layer(self) -> bool:
        """Whether every parameter is a group of its own, or all are one group."""

    def factors(self, squared_norms: Tensor) -> Tensor:
        """(groups, B) squared norms to (groups, B) factors in [0, 1 / norm], float32."""


@dataclass(frozen=True, kw_only=True)
class Flat:
    """g min(1, C / ||g||) (Abadi et al. 2016, Algorithm 1)."""

    clip_norm: float = 1.0
    per_layer: bool = False

    def __post_init__(self) -> None:
        _check(self.clip_norm)

    def factors(self, squared_norms: Tensor) -> Tensor:
        """The clip factor of the whole gradient."""
        return _scale(squared_norms, self.clip_norm)


@dataclass(frozen=True, kw_only=True)
class PerLayer:
    """Each of L parameters clipped to C / sqrt(L) (McMahan et al. 2018, section 2.3).

    The L bounds add in squares: the whole has sensitivity C.
    """

    clip_norm: float = 1.0
    per_layer: bool = True

    def __post_init__(self) -> None:
        _check(self.clip_norm)

    def factors(self, squared_norms: Tensor) -> Tensor:
        """One clip factor per parameter."""
        return _scale(squared_norms, self.clip_norm / math.sqrt(len(squared_norms)))


@dataclass(frozen=True, kw_only=True)
class Automatic:
    """g C / (||g|| + stability): every example has nearly the same length (Bu et al. 2023)."""

    clip_norm: float = 1.0
    stability: float = 0.01
    per_layer: bool = False

    def __post_init__(self) -> None:
        _check(self.clip_norm)
        if not 0 < self.stability < math.inf:
            raise ConfigError(f"Expected stability > 0, got stability={self.stability}.")

    def factors(self, squared_norms: Tensor) -> Tensor:
        """Normalising factors."""
        norms = squared_norms.double().sqrt_()
        return (self.clip_norm * (1 - MARGIN) / (norms + self.stability)).float()


class AdaptiveQuantile:
    """Flat clipping at a private estimate of a quantile of the norms (Andrew et al. 2021).

    After each step, C <- C exp(-rate (fraction - quantile)), where `fraction` is the noisy share of
    the batch with norms below C. Each example's vote, +1/2 or -1/2, has sensitivity 1/2; the
    votes' noise `vote_sigma` is paid for by the gradients: see `gradient_multiplier`.
    """

    per_layer = False

    def __init__(
        self,
        *,
        start: float = 1.0,
        quantile: float = 0.5,
        rate: float = 0.2,
        vote_sigma: float,
        expected_batch: float,
    ) -> None:
        _check(start)
        if not (0 < quantile < 1 and rate > 0 and vote_sigma > 0 and expected_batch >= 1):
            raise ConfigError(
                "Expected 0 < quantile < 1, rate > 0, vote_sigma > 0, expected_batch >= 1, got "
                f"{quantile=}, {rate=}, {vote_sigma=}, {expected_batch=}."
            )
        self.clip_norm = start
        self.quantile, self.rate = quantile, rate
        self.vote_sigma, self.expected_batch = vote_sigma, expected_batch

    def factors(self, squared_norms: Tensor) -> Tensor:
        """The clip factor at the present bound."""
        return _scale(squared_norms, self.clip_norm)

    def votes(self, squared_norms: Tensor, weights: Tensor) -> float:
        """Sum of +1/2 for norms up to C and -1/2 above, over the examples of weight 1."""
        below = squared_norms[0].double().sqrt_() <= self.clip_norm
        return float(torch.dot(below.double() - 0.5, weights.double()))

    def update(self, noisy_votes: float) -> None:
        """Move C after a step; `noisy_votes` has noise of `vote_sigma`."""
        fraction = noisy_votes / self.expected_batch + 0.5
        self.clip_norm *= math.exp(-self.rate * (fraction - self.quantile))

    def gradient_multiplier(self, noise_multiplier: float) -> float:
        """The gradients' own noise multiplier, so that both together cost `noise_multiplier`.

        z_gradient = (z^-2 - (2 vote_sigma)^-2)^(-1/2) (Andrew et al. 2021, Theorem 1).
        """
        room = noise_multiplier**-2 - (2 * self.vote_sigma) ** -2
        if room <= 0:
            raise ConfigError(
                f"Expected vote_sigma > noise_multiplier / 2, got vote_sigma={self.vote_sigma} for "
                f"noise_multiplier={noise_multiplier}. Raise vote_sigma."
            )
        return float(room**-0.5)


def _scale(squared_norms: Tensor, bound: float) -> Tensor:
    target = bound * (1 - MARGIN)
    return squared_norms.double().sqrt_().clamp_(min=target).reciprocal_().mul_(target).float()


def _check(clip_norm: float) -> None:
    if not 0 < clip_norm < math.inf:
        raise ConfigError(f"Expected 0 < clip_norm < infinity, got clip_norm={clip_norm}.")
