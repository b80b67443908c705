"""Generalised randomised response: the value itself, or any other one."""

from __future__ import annotations

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
    support_estimate,
    support_variance,
)
from reticent.release.local.weights import checked_epsilon, exp_below, two_weights


@dataclass(frozen=True, kw_only=True)
class RandomisedResponse:
    """k-ary randomised response (Warner 1965; Kairouz, Bonawitz & Ramage 2016).

    Reports the value with weight a, each other one with weight c, a <= e**epsilon c. Best for few
    categories: k < 3 e**epsilon + 2 (Wang et al. 2017). Reports are (n,) int64.
    """

    categories: int
    epsilon: float

    def __post_init__(self) -> None:
        checked_categories(self.categories)
        checked_epsilon(self.epsilon)

    @cached_property
    def weights(self) -> tuple[int, int]:
        """(a, c), of the value itself and of each other."""
        ratio = exp_below(checked_epsilon(self.epsilon))
        return two_weights(ratio, heavy=1, light=self.categories - 1)

    @cached_property
    def probabilities(self) -> tuple[Fraction, Fraction]:
        """Of reporting the value itself, and of reporting any one other."""
        high, low = self.weights
        total = high + (self.categories - 1) * low
        return Fraction(high, total), Fraction(low, total)

    def randomise(self, values: ArrayLike, source: Source) -> NDArray[np.int64]:
        """One report (n,) per value (n,)."""
        held = checked_values(values, self.categories)
        high, low = self.weights
        draw = below(source, high + (self.categories - 1) * low, len(held)) - high
        # The others are numbered so that they skip the value itself.
        steps = np.where(draw < 0, -1, draw) // low + 1
        return np.asarray((held + steps) % self.categories, dtype=np.int64)

    def estimate(self, reports: NDArray[Any]) -> Estimate:
        """Counts (k,) from reports (n,)."""
        given = checked_values(reports, self.categories)
        hits = np.bincount(given, minlength=self.categories)
        return support_estimate(hits, len(given), *self.probabilities)

    def variance(self, n: int, frequencies: ArrayLike) -> NDArray[np.float64]:
        """Variance (k,) of the counts."""
        shares = checked_frequencies(frequencies, self.categories)
        return support_variance(n, shares, *self.probabilities)

    def likelihoods(self, value: int) -> Mapping[int, Fraction]:
        """Each report's exact probability."""
        held, other = self.probabilities
        return {report: held if report == value else other for report in range(self.categories)}
