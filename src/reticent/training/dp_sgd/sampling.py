"""Poisson sampling: every record enters every batch by its own coin, in pieces of one shape."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from reticent.errors import ConfigError
from reticent.random import seeded

_WORD = 2**32


class Words(Protocol):
    """A source of uniform 32-bit words; `KeyStream` is the secure one."""

    def words32(self, count: int) -> NDArray[np.uint32]:
        """`count` uniform words."""


class SeededWords:
    """Words that a seed repeats, for experiments: who knows the seed knows who was drawn."""

    def __init__(self, seed: int) -> None:
        self._generator = seeded(seed, 1)

    def words32(self, count: int) -> NDArray[np.uint32]:
        """`count` uniform words."""
        return self._generator.integers(0, _WORD, count, dtype=np.uint32)

    @property
    def state(self) -> dict[str, Any]:
        """The generator's state, JSON-able."""
        return dict(self._generator.bit_generator.state)

    @state.setter
    def state(self, state: dict[str, Any]) -> None:
        self._generator.bit_generator.state = state


@dataclass(frozen=True, kw_only=True)
class Draw:
    """One logical batch: the rows drawn, and how many more the capacity cut off.

    Both are private: they say who took part.
    """

    rows: NDArray[np.int64]
    truncated: int

    def chunks(
        self, size: int, *, least: int = 0
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """(rows, weights), each of shape (size,): weight 1 for drawn rows, 0 for padding.

        `least` chunks are returned at least; with `capacity / size` of them, the time that a step
        takes doesn't show how many rows were drawn.
        """
        for index in range(max(least, -(-len(self.rows) // size))):
            part = self.rows[index * size : (index + 1) * size]
            rows, weights = np.zeros(size, dtype=np.int64), np.zeros(size, dtype=np.float32)
            rows[: len(part)], weights[: len(part)] = part, 1.0
            yield rows, weights


@dataclass(frozen=True, kw_only=True)
class PoissonSampling:
    """Each of `examples` rows with `probability`, at most `capacity` at a time.

    `probability` must be a multiple of 2^-32, so that comparing one 32-bit word is exact;
    `poisson_sampling` rounds. A draw above the capacity keeps a uniform subset: accounted for as
    truncated Poisson sampling (Ganesh et al. 2025, arXiv 2508.15089). The number of examples and
    the probability are public constants.
    """

    examples: int
    probability: float
    capacity: int

    def __post_init__(self) -> None:
        if not (
            self.examples >= 1
            and 0 < self.probability <= 1
            and self.capacity >= 1
            and (self.probability * _WORD).is_integer()
        ):
            raise ConfigError(
                "Expected examples >= 1, capacity >= 1 and a probability in (0, 1] that is a "
                f"multiple of 2**-32, got {self}. Use poisson_sampling(), which rounds."
            )

    def draw(self, words: Words) -> Draw:
        """A fresh logical batch, in a random order only where it was cut."""
        threshold = int(self.probability * _WORD)
        if threshold == _WORD:
            rows = np.arange(self.examples)
        else:
            rows = np.flatnonzero(words.words32(self.examples) < threshold)
        truncated = max(0, len(rows) - self.capacity)
        if truncated:
            high, low = words.words32(2 * len(rows)).reshape(2, -1).astype(np.uint64)
            keys = (high << np.uint64(32)) | low
            rows = np.sort(rows[np.argsort(keys)[: self.capacity]])
        return Draw(rows=rows.astype(np.int64), truncated=truncated)


def poisson_sampling(examples: int, expected_batch: float) -> PoissonSampling:
    """Sampling of `expected_batch` rows on average, with a capacity that is almost never reached.

    The capacity is seven standard deviations above the mean: three would raise epsilon visibly.
    """
    if not 0 < expected_batch <= examples:
        raise ConfigError(
            f"Expected 0 < expected_batch <= examples={examples}, got {expected_batch=}."
        )
    probability = max(1, round(expected_batch / examples * _WORD)) / _WORD
    spread = math.sqrt(examples * probability * (1 - probability))
    capacity = min(examples, math.ceil(examples * probability + 7 * spread) + 3)
    return PoissonSampling(examples=examples, probability=probability, capacity=capacity)


def bound_contributions(users: NDArray[np.generic], most: int, words: Words) -> NDArray[np.int64]:
    """Rows to keep so that no user has more than `most`: a uniform subset of each user's rows."""
    if most < 1:
        raise ConfigError(f"Expected most >= 1, got most={most}.")
    _, codes = np.unique(users, return_inverse=True)
    order = np.lexsort((words.words32(len(codes)), codes))
    ordered = codes[order]
    starts = np.searchsorted(ordered, ordered)
    return np.sort(order[np.arange(len(order)) - starts < most]).astype(np.int64)
