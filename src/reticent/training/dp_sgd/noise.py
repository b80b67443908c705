"""Gaussian noise for clipped sums: secure for people, seeded for experiments.

Both add to a flat float32 buffer in place. Only the secure one gives the guarantee.

The secure noise and the floating-point attack (Mironov 2012; Haney et al. 2022). The clipped sum
is rounded to multiples of a power of two, Delta; the noise is rounded to multiples of Delta; the
two are added in float64, where that is exact. Because the sum lies on the grid, adding rounded
noise is the same as rounding the sum plus the noise before rounding: post-processing of the
Gaussian mechanism on real numbers, whatever the data. What comes out is a grid point, and every
grid point can come from every sum. The final rounding to float32 is post-processing as well.
Rounding the sum moves two neighbouring sums by at most Delta sqrt(d) apart; Delta is chosen so that
this is at most 2^-17 of the clip norm, which the margin of `clipping` covers.

What is not exact: the noise before rounding. It is a Box-Muller transform in float64 of one 63-bit
and one 64-bit uniform word. Errors of a few units in the last place move the borders of a grid
cell, and change its probability by about 2^-52 |z| sigma / Delta, relatively; a draw beyond 9.3
sigma, of probability 2^-63, doesn't occur. This is an estimate, not a bound proved for the whole
tail. Assumed: AES in counter mode is indistinguishable from random.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from reticent.errors import ConfigError
from reticent.training.dp_sgd.keystream import KeyStream

_PAIRS = 1 << 15
_GRID_SHARE = 2.0**-17


class Noise(Protocol):
    """A source of Gaussian noise."""

    is_secure: bool

    def add_to(self, flat: Tensor, *, sigma: float, clip_norm: float) -> None:
        """Add N(0, sigma^2) to every entry of `flat`, a clipped sum of sensitivity `clip_norm`."""


class SecureNoise:
    """Noise from a key stream that nothing can replay."""

    is_secure = True

    def __init__(self) -> None:
        self._stream = KeyStream()

    def add_to(self, flat: Tensor, *, sigma: float, clip_norm: float) -> None:
        """On the grid that the module's docstring describes."""
        _check(sigma, clip_norm)
        step = grid(clip_norm, flat.numel())
        # Whole grid steps are counted in float64, which is exact below 2^53.
        if sigma * 10 / step > 2.0**52:
            raise ConfigError(
                f"Expected sigma below 2**48 grid steps, got sigma={sigma} for "
                f"clip_norm={clip_norm}. Raise the clip norm."
            )
        for part in flat.split(2 * _PAIRS):
            exact = part.double().mul_(1 / step).round_()
            exact += self.standard(part.numel()).mul_(sigma / step).round_()
            part.copy_(exact.mul_(step))

    def standard(self, count: int) -> Tensor:
        """`count` standard Gaussian draws, float64 (Box and Muller 1958)."""
        pairs = (count + 1) // 2
        words = self._stream.words64(2 * pairs).view(2, pairs)
        # 63 bits, so that the smallest uniforms keep their full resolution in float64.
        uniform = words[0].bitwise_and_((1 << 63) - 1).double().add_(0.5).mul_(2.0**-63)
        radius = uniform.log_().mul_(-2.0).sqrt_()
        angle = words[1].double().mul_(math.pi * 2.0**-63)
        made = radius.new_empty(2, pairs)
        torch.cos(angle, out=made[0]).mul_(radius)
        torch.sin(angle, out=made[1]).mul_(radius)
        return made.view(-1)[:count]


class SeededNoise:
    """Noise that a seed repeats, for experiments: who knows the seed can subtract it."""

    is_secure = False

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def add_to(self, flat: Tensor, *, sigma: float, clip_norm: float) -> None:
        """Single-precision noise, no grid."""
        _check(sigma, clip_norm)
        for part in flat.split(2 * _PAIRS):
            part.add_(torch.empty_like(part).normal_(generator=self.generator), alpha=sigma)


def grid(clip_norm: float, count: int) -> float:
    """The largest power of two that is at most 2^-17 clip_norm / sqrt(count)."""
    return float(2.0 ** math.floor(math.log2(_GRID_SHARE * clip_norm / math.sqrt(count))))


def _check(sigma: float, clip_norm: float) -> None:
    if not (0 <= sigma < math.inf and 0 < clip_norm < math.inf):
        raise ConfigError(f"Expected sigma >= 0, clip_norm > 0, got {sigma=}, {clip_norm=}.")
