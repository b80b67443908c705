"""Subset selection: a random subset of the categories, which holds the value more often."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

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
from reticent.release.local.unary import count_bits
from reticent.release.local.weights import checked_epsilon, exp_below, two_weights


@dataclass(frozen=True, kw_only=True)
class SubsetSelection:
    """Reports one of the subsets of `size` categories (Ye & Barg 2018).

    A subset that holds the value has weight a, any other weight c, a <= e**epsilon c. The size is
    k / (e**epsilon + 1), rounded, at least 1: with 1 this is randomised response. Its worst
    variance is of the optimal order at every epsilon. Reports are packed bits, (n, ceil(k / 8))
    uint8.
    """

    categories: int
    epsilon: float

    def __post_init__(self) -> None:
        checked_categories(self.categories)
        checked_epsilon(self.epsilon)

    @cached_property
    def size(self) -> int:
        """How many categories a report names."""
        return max(1, round(self.categories / (math.exp(self.epsilon) + 1)))

    @cached_property
    def weights(self) -> tuple[int, int]:
        """(a, c) of one subset with the value, and of one without, up to a common factor."""
        ratio = exp_below(checked_epsilon(self.epsilon))
        return two_weights(ratio, heavy=self.size, light=self.categories - self.size)

    @cached_property
    def probabilities(self) -> tuple[Fraction, Fraction]:
        """That a report names its sender's value, and that it names any one other.

        Of all subsets, size / k hold the value, so the weights of the two kinds are to each other
        as size a to (k - size) c.
        """
        high, low = self.weights
        held = Fraction(self.size * high, self.size * high + (self.categories - self.size) * low)
        places = held * (self.size - 1) + (1 - held) * self.size
        return held, places / (self.categories - 1)

    def randomise(self, values: ArrayLike, source: Source) -> NDArray[np.uint8]:
        """One packed report (n, ceil(k / 8)) per value (n,)."""
        held = checked_values(values, self.categories)
        made = np.empty((len(held), (self.categories + 7) // 8), dtype=np.uint8)
        for rows in chunks(len(held), self.categories):
            made[rows] = np.packbits(self._subsets(held[rows], source), axis=1)
        return made

    def _subsets(self, held: NDArray[np.int64], source: Source) -> NDArray[np.bool_]:
        high, low = self.weights
        inside, outside = self.size * high, (self.categories - self.size) * low
        has = below(source, inside + outside, len(held)) < inside
        members = np.zeros((len(held), self.categories), dtype=np.bool_)
        for chosen, count in ((has, self.size - 1), (~has, self.size)):
            rows = np.flatnonzero(chosen)
            members[rows] = _others(held[rows], self.categories, count, source)
        members[np.arange(len(held)), held] = has
        return members

    def estimate(self, reports: NDArray[Any]) -> Estimate:
        """Counts (k,) from packed reports."""
        return support_estimate(
            count_bits(reports, self.categories), len(reports), *self.probabilities
        )

    def variance(self, n: int, frequencies: ArrayLike) -> NDArray[np.float64]:
        """Variance (k,) of the counts."""
        shares = checked_frequencies(frequencies, self.categories)
        return support_variance(n, shares, *self.probabilities)

    def likelihoods(self, value: int) -> Mapping[tuple[int, ...], Fraction]:
        """Each subset and its exact probability."""
        high, low = self.weights
        weights = {
            members: high if value in members else low
            for members in itertools.combinations(range(self.categories), self.size)
        }
        total = sum(weights.values())
        return {members: Fraction(weight, total) for members, weight in weights.items()}


def _others(
    held: NDArray[np.int64], categories: int, count: int, source: Source
) -> NDArray[np.bool_]:
    """Uniform subsets of `count` of the other categories, (n, k) (Floyd: Bentley & Floyd 1987)."""
    n, rows = len(held), np.arange(len(held))
    members = np.zeros((n, categories), dtype=np.bool_)
    for last in range(categories - 1 - count, categories - 1):
        pick = below(source, last + 1, n)
        # The others are numbered from the value on, round and round, so that they skip it.
        taken = members[rows, (held + 1 + pick) % categories]
        place = np.where(taken, last, pick)
        members[rows, (held + 1 + place) % categories] = True
    return members
