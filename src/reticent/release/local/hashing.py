"""Local hashing: each sender hashes the categories to few, and randomises among those."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reticent.errors import ConfigError, DataError
from reticent.release.local.draws import Source, below
from reticent.release.local.oracle import (
    Estimate,
    checked_categories,
    checked_frequencies,
    checked_values,
    chunks,
    support_estimate,
    support_variance,
)
from reticent.release.local.response import RandomisedResponse
from reticent.release.local.weights import checked_epsilon

MERSENNE = 2**31 - 1
_MOST_BUCKETS = 2**16


@dataclass(frozen=True, kw_only=True)
class LocalHashing:
    """Optimised local hashing (Wang et al. 2017, OLH).

    The hash x -> ((s x + t) mod p) mod g has s and t uniform below the prime p and drawn whatever
    the value, so a report (s, t, y) is as private as randomised response among the g buckets: g =
    e**epsilon + 1, rounded, at most 2**16. Hashes of two values are independent, which makes the
    estimate's expectation and variance exact. Reports are (n, 3) uint32: twelve bytes whatever k.
    """

    categories: int
    epsilon: float
    prime: int = MERSENNE

    def __post_init__(self) -> None:
        checked_categories(self.categories)
        checked_epsilon(self.epsilon)
        if not self.categories <= self.prime <= MERSENNE:
            raise ConfigError(
                f"Expected a prime from categories={self.categories} to 2**31 - 1, got "
                f"prime={self.prime}. Leave it out."
            )

    @cached_property
    def buckets(self) -> int:
        """g, how many hash values there are."""
        return min(_MOST_BUCKETS, self.prime, max(2, round(math.exp(self.epsilon)) + 1))

    @cached_property
    def response(self) -> RandomisedResponse:
        """What randomises the hash."""
        return RandomisedResponse(categories=self.buckets, epsilon=self.epsilon)

    @cached_property
    def probabilities(self) -> tuple[Fraction, Fraction]:
        """That a report supports its sender's value, and that it supports any one other.

        The buckets are a shade unequal, as p is no multiple of g: n_j of the p remainders fall
        into bucket j, and an independent hash meets the report with q + (P - q) sum (n_j / p)^2.
        """
        held, other = self.response.probabilities
        small, larger = divmod(self.prime, self.buckets)
        squares = larger * (small + 1) ** 2 + (self.buckets - larger) * small**2
        return held, other + (held - other) * Fraction(squares, self.prime**2)

    def randomise(self, values: ArrayLike, source: Source) -> NDArray[np.uint32]:
        """One report (s, t, y) per value (n,), as (n, 3)."""
        held = checked_values(values, self.categories)
        made = np.empty((len(held), 3), dtype=np.uint32)
        made[:, 0] = below(source, self.prime, len(held))
        made[:, 1] = below(source, self.prime, len(held))
        hashed = self._hash(made[:, 0], made[:, 1], held.astype(np.uint64))
        made[:, 2] = self.response.randomise(hashed.astype(np.int64), source)
        return made

    def _hash(
        self, scale: NDArray[np.uint32], shift: NDArray[np.uint32], values: NDArray[np.uint64]
    ) -> NDArray[np.uint64]:
        line = scale.astype(np.uint64) * values + shift
        return line % np.uint64(self.prime) % np.uint64(self.buckets)

    def estimate(self, reports: NDArray[Any]) -> Estimate:
        """Counts (k,) from reports (n, 3); takes time n k."""
        if reports.ndim != 2 or reports.shape[1] != 3 or reports.dtype != np.uint32:
            raise DataError(
                f"Expected reports of shape (n, 3) and uint32, got shape={reports.shape}, "
                f"dtype={reports.dtype}. Were they made by another mechanism?"
            )
        hits = np.zeros(self.categories, dtype=np.int64)
        every = np.arange(self.categories, dtype=np.uint64)
        for rows in chunks(len(reports), self.categories):
            scale, shift, told = (reports[rows, column, None] for column in range(3))
            hits += (self._hash(scale, shift, every) == told).sum(axis=0)
        return support_estimate(hits, len(reports), *self.probabilities)

    def variance(self, n: int, frequencies: ArrayLike) -> NDArray[np.float64]:
        """Variance (k,) of the counts."""
        shares = checked_frequencies(frequencies, self.categories)
        return support_variance(n, shares, *self.probabilities)

    def likelihoods(self, value: int) -> Mapping[tuple[int, int, int], Fraction]:
        """Each (s, t, y) and its exact probability; p**2 g of them, so for a small prime."""
        told = self.response.likelihoods(0)
        chance = Fraction(1, self.prime**2)
        made = {}
        for scale in range(self.prime):
            for shift in range(self.prime):
                hashed = (scale * value + shift) % self.prime % self.buckets
                for report in range(self.buckets):
                    place = (report - hashed) % self.buckets
                    made[scale, shift, report] = chance * told[place]
        return made
