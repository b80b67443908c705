"""Exact random draws: integers and biased bits whose probabilities are whole numbers over 2**64.

Nothing here compares floating-point numbers, so what a mechanism states as integer weights is what
it does, if the source's bytes are uniform. That is assumed of the operating system's source.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from reticent.errors import ConfigError
from reticent.random import SecureRandom, seeded

WORD = 2**64
_STREAM = 4
# Seven of the eight bytes of each word that the secure source hands out are wholly random.
_USABLE = 7
_BLOCK = 1 << 13


class Source(Protocol):
    """Where uniform bytes come from."""

    is_secure: bool

    def bytes(self, count: int) -> NDArray[np.uint8]:
        """`count` uniform bytes."""


class SecureSource:
    """Bytes of the operating system's secure source: what protects people."""

    is_secure = True

    def __init__(self) -> None:
        self._random = SecureRandom()

    def bytes(self, count: int) -> NDArray[np.uint8]:
        """`count` uniform bytes."""
        made = np.empty((-(-count // _USABLE), _USABLE), dtype=np.uint8)
        # By blocks that stay in cache.
        for start in range(0, len(made), _BLOCK):
            part = made[start : start + _BLOCK]
            words = self._random.integers(1 << 8 * _USABLE, (len(part),))
            part[:] = words.astype("<i8", copy=False).view(np.uint8).reshape(-1, 8)[:, :_USABLE]
        return made.reshape(-1)[:count]


class ExperimentSource:
    """Bytes that a seed repeats: for experiments, and worth nothing as a protection."""

    is_secure = False

    def __init__(self, seed: int) -> None:
        self._generator = seeded(seed, _STREAM)

    def bytes(self, count: int) -> NDArray[np.uint8]:
        """`count` uniform bytes."""
        return np.frombuffer(self._generator.bytes(count), dtype=np.uint8)


def source_for(*, experiment: bool = False, seed: int | None = None) -> Source:
    """The secure source, or for an experiment a seeded one; `ConfigError` for a mixture."""
    if experiment != (seed is not None):
        raise ConfigError(
            f"Expected a seed with experiment=True and only then, got experiment={experiment} and "
            f"seed={seed}. A seed lets whoever knows it undo the randomisation."
        )
    return SecureSource() if seed is None else ExperimentSource(seed)


def below(source: Source, high: int, count: int) -> NDArray[np.int64]:
    """`count` integers, exactly uniform on [0, high), by rejection; `high` is at most 2**63."""
    if not 1 <= high <= 2**63:
        raise ValueError(f"Expected 1 <= high <= 2**63, got high={high}.")
    if high == 1:
        return np.zeros(count, dtype=np.int64)
    kind = np.dtype("<u4" if high <= 2**24 else "<u8")
    limit = kind.type((2 ** (8 * kind.itemsize) // high) * high - 1)
    kept: list[NDArray[np.int64]] = []
    missing = count
    while missing > 0:
        words = source.bytes(kind.itemsize * missing).view(kind)
        words = words[words <= limit] % kind.type(high)
        kept.append(words.astype(np.int64))
        missing -= len(words)
    return np.concatenate(kept) if kept else np.empty(0, dtype=np.int64)


def bernoulli(source: Source, threshold: int, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Bits that are 1 with probability exactly threshold / 2**64, for 0 <= threshold < 2**64.

    A 64-bit word is below the threshold if its first byte is; only where the first bytes are equal
    (one time in 256) do the other seven have to be drawn.
    """
    if not 0 <= threshold < WORD:
        raise ValueError(f"Expected 0 <= threshold < 2**64, got threshold={threshold}.")
    top, rest = divmod(threshold, 1 << 56)
    first = source.bytes(math.prod(shape))
    made: NDArray[np.bool_] = first < np.uint8(top)
    if rest:
        level = np.flatnonzero(first == np.uint8(top))
        made[level] = _words56(source, len(level)) < np.uint64(rest)
    return made.reshape(shape)


def below_each(source: Source, thresholds: NDArray[np.int64], bits: int) -> NDArray[np.bool_]:
    """Bits that are 1 with probability exactly thresholds[i] / 2**bits, for bits <= 63."""
    words = source.bytes(8 * len(thresholds)).view("<u8") >> np.uint64(64 - bits)
    return words.astype(np.int64) < thresholds


def _words56(source: Source, count: int) -> NDArray[np.uint64]:
    padded = np.zeros((count, 8), dtype=np.uint8)
    padded[:, :7] = source.bytes(7 * count).reshape(count, 7)
    return padded.view("<u8").reshape(count)
