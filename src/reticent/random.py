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
        """Uniform draws on the open interval (0, 1), 53 bits each, shape `shape`."""
        count = int(np.prod(shape, dtype=np.int64))
        words = np.frombuffer(os.urandom(8 * count), dtype=np.uint64)
        return ((words >> np.uint64(11)).astype(np.float64) + 0.5).reshape(shape) * 2.0**-53

    def normal(self, shape: tuple[int, ...], *, sigma: float) -> NDArray[np.float64]:
        """Gaussian draws of standard deviation `sigma`, shape `shape` (Box–Muller, float64)."""
        radius = np.sqrt(-2.0 * np.log(self.uniform(shape)))
        return sigma * radius * np.cos(2.0 * np.pi * self.uniform(shape))

    def integers(self, high: int, shape: tuple[int, ...]) -> NDArray[np.int64]:
        """Unbiased integers in [0, high), by rejection."""
        count = int(np.prod(shape, dtype=np.int64))
        limit = (2**63 // high) * high
        kept = np.empty(0, dtype=np.int64)
        while kept.size < count:
            words = np.frombuffer(os.urandom(8 * count), dtype=np.uint64) >> np.uint64(1)
            kept = np.concatenate([kept, words[words < limit].astype(np.int64)])
        return (kept[:count] % high).reshape(shape)


def add_gaussian(
    values: NDArray[np.floating], *, sigma: float, source: SecureRandom
) -> NDArray[np.float32]:
    """`values` plus fresh Gaussian noise, rounded to a public grid of step sigma / 2**10.

    Rounding after adding is post-processing, so it weakens nothing; it removes the low-order bits
    in which floating-point Gaussian samplers betray their input (Mironov 2012 for Laplace;
    Haney et al. 2022 for Gaussian noise). A grid this coarse holds every attainable float64 sum
    of noise and value in cells of at least 2**40 representable points.
    """
    if not sigma > 0:
        raise ValueError(f"Expected sigma={sigma} > 0.")
    step = sigma * 2.0**-_GRID_BITS
    noisy = values.astype(np.float64) + source.normal(values.shape, sigma=sigma)
    return np.asarray(np.round(noisy / step) * step, dtype=np.float32)


def seeded(seed: int, *stream: int) -> np.random.Generator:
    """A reproducible generator for experiments; `stream` separates independent uses of one seed."""
    return np.random.default_rng([seed, *stream])
