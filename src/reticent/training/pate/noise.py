"""Gaussian noise for votes: an exact lattice sampler for people, a seeded one for experiments.

Votes are whole numbers. The secure noise is a discrete Gaussian on the multiples of 2**-32 of a
vote (Canonne, Kamath & Steinke 2020, algorithms 1 to 3): whole-number arithmetic on random bits
of the operating system, no floating point, so that there are no low-order bits to attack (Mironov
2012) and no error of the sampler to account for. Two statements follow:

1. Its Rényi divergence at order a, for votes that move by D in Euclidean norm, is at most
   a D^2 / (2 sigma^2): the continuous Gaussian's (same paper, theorem 4, by Poisson summation;
   independent coordinates add up). Charges to a ledger rest on this alone.
2. For sigma >= 1 a draw is within 2**-66 in total variation of a continuous Gaussian rounded to the
   lattice. Votes lie on the lattice, so rounding the noise is rounding the noisy votes, which is
   post-processing. Privacy loss distributions of continuous Gaussians therefore hold up to
   (1 + e^epsilon) 2**-66 in delta for each draw. (The chance of a lattice point differs from its
   cell's by |x^2 / sigma^2 - 1| h^2 / (24 sigma^2), relatively and to first order, h = 2**-32.)
"""

from __future__ import annotations

import math
import os
from fractions import Fraction
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from reticent.errors import ConfigError
from reticent.random import seeded

LATTICE_BITS = 32
STEPS = 1 << LATTICE_BITS
"""Lattice steps in one vote."""

_BLOCK = 4096


class VoteNoise(Protocol):
    """Gaussian draws in whole lattice steps."""

    is_secure: bool

    def draw(self, count: int, *, sigma: float) -> list[int]:
        """`count` independent draws of standard deviation `sigma` votes, in lattice steps."""


class SecureVoteNoise:
    """The exact discrete Gaussian, from operating-system entropy."""

    is_secure = True

    def __init__(self) -> None:
        self._bits, self._left = 0, 0

    def draw(self, count: int, *, sigma: float) -> list[int]:
        """See `VoteNoise.draw`. `ConfigError` unless 1 <= sigma < 2**40."""
        check_sigma(sigma)
        return [self._gaussian(Fraction(sigma) * STEPS) for _ in range(count)]

    def _gaussian(self, sigma: Fraction) -> int:
        """Algorithm 3: a discrete Laplace draw of scale t, kept with a Gaussian's odds."""
        variance, t = sigma * sigma, math.floor(sigma) + 1
        while True:
            y = self._laplace(t)
            off = abs(y) - variance / t
            if self._keep(off * off / (2 * variance)):
                return y

    def _laplace(self, t: int) -> int:
        """Algorithm 2 for a whole scale `t`: chances proportional to exp(-|y| / t)."""
        while True:
            u = self._below(t)
            if not self._keep(Fraction(u, t)):
                continue
            v = 0
            while self._keep(Fraction(1)):
                v += 1
            size, is_negative = u + t * v, self._below(2)
            if size or not is_negative:
                return -size if is_negative else size

    def _keep(self, gamma: Fraction) -> bool:
        """Algorithm 1: true with probability exp(-gamma)."""
        while gamma > 1:
            if not self._series(Fraction(1)):
                return False
            gamma -= 1
        return self._series(gamma)

    def _series(self, gamma: Fraction) -> bool:
        """Von Neumann's series for exp(-gamma), gamma in [0, 1]."""
        k = 1
        while self._below(gamma.denominator * k) < gamma.numerator:
            k += 1
        return k % 2 == 1

    def _below(self, high: int) -> int:
        """A uniform whole number below `high`, by rejection."""
        width = (high - 1).bit_length()
        while True:
            found = self._take(width)
            if found < high:
                return found

    def _take(self, width: int) -> int:
        if width > self._left:
            # Fresh bits for the whole draw: those left over are dropped, not joined.
            self._bits = int.from_bytes(os.urandom(max(_BLOCK, width)), "little")
            self._left = 8 * max(_BLOCK, width)
        found = self._bits & ((1 << width) - 1)
        self._bits >>= width
        self._left -= width
        return found


class SeededVoteNoise:
    """Rounded draws that a seed repeats, for experiments: who knows the seed subtracts them."""

    is_secure = False

    def __init__(self, seed: int) -> None:
        self._rng = seeded(seed, 1)

    def draw(self, count: int, *, sigma: float) -> list[int]:
        """See `VoteNoise.draw`."""
        check_sigma(sigma)
        made: NDArray[np.float64] = np.rint(self._rng.standard_normal(count) * (sigma * STEPS))
        return [int(value) for value in made]


def check_sigma(sigma: float) -> None:
    """`ConfigError` unless 1 <= sigma < 2**40, where the two statements above hold."""
    if not 1 <= sigma < 2.0**40:
        raise ConfigError(
            f"Expected 1 <= sigma < 2**40 votes, got sigma={sigma}. Less noise than one vote "
            "protects nobody."
        )
