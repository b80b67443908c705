"""Discrete Gaussian shares of noise, which add up to noise that is accounted for as a sum."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from decimal import Decimal, localcontext
from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from reticent.errors import ConfigError

_WORD = 1 << 64
# The table stops where the tail that is left falls below 2**-120.
_TAIL_SIGMAS = 13.2
_LARGEST = 2.0**14


@dataclass(frozen=True, kw_only=True)
class DiscreteGaussian:
    """P(x) proportional to exp(-x^2 / (2 sigma^2)) on whole numbers, 1/2 <= sigma <= 2**14.

    Draws invert a table of cumulative probabilities of 128 bits with 128 random bits of the
    operating system. Rounding the table and cutting the tail move a draw by at most
    `total_variation`; no floating-point number is between the bits and the draw.
    """

    sigma: float

    def __post_init__(self) -> None:
        if not 0.5 <= self.sigma <= _LARGEST:
            raise ConfigError(
                f"Expected 0.5 <= sigma <= {_LARGEST:g} per share, got sigma={self.sigma}. "
                "Below one half, sums of discrete Gaussians have no bound; add more noise."
            )

    @property
    def largest(self) -> int:
        """No draw is larger in size."""
        return math.ceil(_TAIL_SIGMAS * self.sigma) + 1

    @property
    def total_variation(self) -> float:
        """From the exact law, per draw: one rounding per table entry, and the tail."""
        return (2 * self.largest + 1) * 2.0**-127 + 2.0**-119

    def draw(self, count: int) -> NDArray[np.int64]:
        """`count` independent draws."""
        table, high = _table(self.sigma, self.largest)
        words = np.frombuffer(os.urandom(8 * count), dtype="<u8")
        places = np.searchsorted(high, words, side="right")
        for index in np.flatnonzero(np.isin(words, high)):
            # The upper half of the bits doesn't decide: the lower half does.
            exact = int(words[index]) * _WORD + int.from_bytes(os.urandom(8), "little")
            places[index] = sum(exact >= entry for entry in table)
        return places.astype(np.int64) - self.largest


@lru_cache(maxsize=16)
def _table(sigma: float, largest: int) -> tuple[tuple[int, ...], NDArray[np.uint64]]:
    """floor(2**128 P(X <= x)) for x from -largest to largest - 1, and the upper 64 bits."""
    with localcontext() as context:
        context.prec = 60
        exact = Fraction(sigma) ** 2 * 2
        twice = Decimal(exact.numerator) / Decimal(exact.denominator)
        weights = [(-(Decimal(x) ** 2) / twice).exp() for x in range(-largest, largest + 1)]
        scale = Decimal(_WORD) * Decimal(_WORD) / sum(weights)
        summed, entries = Decimal(0), []
        for weight in weights[:-1]:
            summed += weight
            entries.append(int(summed * scale))
    return tuple(entries), np.array([entry >> 64 for entry in entries], dtype=np.uint64)


def summed_concentration(*, sigma: float, shares: int, l2: float, dimensions: int) -> float:
    """rho: adding `shares` discrete Gaussians of `sigma` to values that move by at most `l2` in
    Euclidean norm, over `dimensions` coordinates, is rho-zero-concentrated private.

    A sum of discrete Gaussians is no discrete Gaussian; tau bounds how far it is. Kairouz, Liu &
    Steinke 2021, proposition 14: rho = e^2 / 2 with e the lesser of
    sqrt(l2^2 / (n sigma^2) + tau d / 2) and l2 / (sqrt(n) sigma) + tau sqrt(d),
    tau = 10 sum_{k < n} exp(-2 pi^2 sigma^2 k / (k + 1)). sigma >= 1/2.
    """
    if not (sigma >= 0.5 and shares >= 1 and l2 >= 0 and dimensions >= 1):
        raise ConfigError(
            "Expected sigma >= 0.5, shares >= 1, l2 >= 0 and dimensions >= 1, got "
            f"{sigma=}, {shares=}, {l2=}, {dimensions=}."
        )
    tau = 10 * math.fsum(
        math.exp(-2 * math.pi**2 * sigma**2 * k / (k + 1)) for k in range(1, shares)
    )
    ratio = l2 / (math.sqrt(shares) * sigma)
    epsilon = min(math.sqrt(ratio**2 + tau * dimensions / 2), ratio + tau * math.sqrt(dimensions))
    return epsilon**2 / 2
