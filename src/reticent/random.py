"""Secure and seeded randomness: two types, so that neither can stand in for the other.

`SecureRandom` protects people: operating-system entropy, no seed, no replay.
`seeded` serves experiments: a numpy generator that a seed reproduces.
"""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import NDArray

_GRID_BITS = 10


class SecureRandom:
    """Draws from the operating system's cryptographically secure source.

    It has no seed on purpose. It is not a numpy generator on purpose: code that takes one for
    experiments can't be handed the other by accident.
    """

    __slots__ = ()

    def uniform(self, shape: tuple[int, ...]) -> NDArray[np.float64]:
        """Uniform draws on the open interval (0, 1), shape `shape`.

        They are the midpoints of 2**52 equal cells: with one bit more the topmost midpoint would
        round to 1.
        """
        count = int(np.prod(shape, dtype=np.int64))
        words = np.frombuffer(os.urandom(8 * count), dtype=np.uint64)
        return ((words >> np.uint64(12)).astype(np.float64) + 0.5).reshape(shape) * 2.0**-52

    def normal(self, shape: tuple[int, ...], *, sigma: float) -> NDArray[np.float64]:
        """Gaussian draws of standard deviation `sigma`, shape `shape` (Box–Muller, float64).

        The smallest uniform is 2**-53, so no draw exceeds sqrt(2 * 53 * ln 2) = 8.57 sigma; an
        exact Gaussian does with probability below 2**-53.
        """
        radius = np.sqrt(-2.0 * np.log(self.uniform(shape)))
        return sigma * radius * np.cos(2.0 * np.pi * self.uniform(shape))

    def integers(self, high: int, shape: tuple[int, ...]) -> NDArray[np.int64]:
        """Unbiased integers in [0, high), by rejection; `high` is from 1 to 2**63."""
        if not 1 <= high <= 2**63:
            raise ValueError(f"Expected 1 <= high <= 2**63, got high={high}.")
        count = int(np.prod(shape, dtype=np.int64))
        limit = (2**63 // high) * high
        kept = np.empty(0, dtype=np.uint64)
        while kept.size < count:
            words = np.frombuffer(os.urandom(8 * count), dtype=np.uint64) >> np.uint64(1)
            kept = np.concatenate([kept, words[words < limit]])
        return (kept[:count] % np.uint64(high)).astype(np.int64).reshape(shape)


def add_gaussian(
    values: NDArray[np.floating], *, sigma: float, source: SecureRandom
) -> NDArray[np.float32]:
    """`values` plus fresh Gaussian noise, rounded to a public grid of step sigma / 2**10.

    Without the grid, the low-order bits of a floating-point sum show which inputs could have
    produced it (Mironov 2012 for Laplace noise; Haney et al. 2022 for Gaussian noise). Rounding is
    post-processing: it keeps every bound of the exact mechanism, and a coarse grid hides how far
    float64 is from exact.

    How far: couple each uniform draw with an exact one in the same cell of width 2**-52. Cells,
    float64 arithmetic and the cut tail then move value plus noise by at most
    (64 + 2 |value| / sigma) * 2**-52 sigma on average, and a grid point changes only when a cell
    border of width sigma / 2**10 is crossed. For |value| <= 100 sigma, each coordinate of the
    output is therefore within 2**-33 of the exact mechanism in total variation, a term to add,
    once per coordinate, to any bound on total variation. Mutual information with an attribute of
    k values is within t log k + h(t) nats for the sum t of those terms, h the binary entropy.
    Not claimed: a bound on the largest likelihood ratio (pure epsilon), which a cut tail has not.
    Assumed: the operating system's source is uniform, and the C library's log, sqrt and cos are
    right to a few units in the last place.
    """
    if not 0 < sigma < np.inf:
        raise ValueError(f"Expected 0 < sigma < infinity, got sigma={sigma}.")
    step = sigma * 2.0**-_GRID_BITS
    noisy = values.astype(np.float64) + source.normal(values.shape, sigma=sigma)
    return np.asarray(np.round(noisy / step) * step, dtype=np.float32)


def seeded(seed: int, *stream: int) -> np.random.Generator:
    """A reproducible generator for experiments; `stream` separates independent uses of one seed.

    Streams are numbered from 1: numpy pads with zeros, so stream 0 would be no stream at all, and
    it would take the upper half of a long seed for a stream.
    """
    if seed < 0 or not all(0 < number < 2**32 for number in stream):
        raise ValueError(f"Expected seed >= 0 and streams from 1, got {seed=}, {stream=}.")
    if seed < 2**32:
        return np.random.default_rng([seed, *stream])
    low, key = seed % 2**32, (seed >> 32, *stream)
    return np.random.default_rng(np.random.SeedSequence(low, spawn_key=key))
