"""Numbers under local privacy: Duchi's mechanism, the piecewise one, and their hybrid."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reticent.errors import ConfigError, DataError
from reticent.release.bounds import check_bounds
from reticent.release.local.draws import WORD, Source, below, below_each, bernoulli
from reticent.release.local.weights import checked_epsilon, exp_below, flip_threshold, two_weights

_BITS = 62
_MOST_CELLS = 2**24


@dataclass(frozen=True, kw_only=True)
class MeanEstimate:
    """The mean of `reports` people's values; the error is that of the randomisation alone."""

    mean: float
    standard_error: float
    reports: int


class NumericMechanism(Protocol):
    """An epsilon-DP randomiser of one number, clamped to [-1, 1]; reports are unbiased for it.

    **Claim.** As for `FrequencyOracle`: whole-number weights, whatever the rounding of the input.
    """

    @property
    def epsilon(self) -> float:
        """Bound on the log-ratio of probabilities of one report, in nats."""

    @property
    def spread(self) -> tuple[float, float]:
        """(v0, v1): a report of x has variance v0 + v1 x^2."""

    def randomise(self, values: ArrayLike, source: Source) -> NDArray[np.float64]:
        """One report (n,) per value (n,) in [-1, 1]."""

    def likelihoods(self, value: float) -> Mapping[Any, Fraction]:
        """Every report and its exact probability."""


@dataclass(frozen=True, kw_only=True)
class Duchi:
    """Two reports, +C and -C (Duchi, Jordan & Wainwright 2018; Wang et al. 2019, algorithm 1).

    +C has probability T / 2**62 with T = 2**61 + x H, rounded and then clamped to 2**61 +- H, where
    (2**61 + H) / (2**61 - H) <= e**epsilon; C = 2**61 / H. So rounding can't raise the ratio.
    """

    epsilon: float

    def __post_init__(self) -> None:
        checked_epsilon(self.epsilon)

    @cached_property
    def half(self) -> int:
        """H, in 2**-62."""
        ratio = exp_below(checked_epsilon(self.epsilon))
        return (1 << (_BITS - 1)) - flip_threshold(ratio, 1 << _BITS)

    @cached_property
    def size(self) -> float:
        """C, how large every report is."""
        return (1 << (_BITS - 1)) / self.half

    @property
    def spread(self) -> tuple[float, float]:
        """C^2 - x^2 (Wang et al. 2019)."""
        return self.size**2, -1.0

    def _thresholds(self, values: NDArray[np.float64]) -> NDArray[np.int64]:
        steps = np.rint(np.clip(values, -1.0, 1.0) * float(self.half)).astype(np.int64)
        return (1 << (_BITS - 1)) + np.clip(steps, -self.half, self.half)

    def randomise(self, values: ArrayLike, source: Source) -> NDArray[np.float64]:
        """One report (n,) per value (n,) in [-1, 1]."""
        thresholds = self._thresholds(checked_numbers(values))
        return np.where(below_each(source, thresholds, _BITS), self.size, -self.size)

    def likelihoods(self, value: float) -> Mapping[int, Fraction]:
        """The probabilities of +1 and -1, times C."""
        up = Fraction(int(self._thresholds(np.array([value]))[0]), 1 << _BITS)
        return {1: up, -1: 1 - up}


@dataclass(frozen=True, kw_only=True)
class Piecewise:
    """The piecewise mechanism (Wang et al. 2019, algorithm 2) on a grid of `cells` cells.

    The paper draws from [-C, C]: more often from a window of width C - 1 around the value, less
    often outside, with density ratio e**epsilon. Here the line is `cells` cells, `window` of them
    in the window, with whole weights a and c, a <= e**epsilon c: a finite alphabet, exact ratios.
    Where the value falls between two positions of the window, it is rounded to the nearer one: an
    error of at most 1 / (cells - window), 2**-23 or less.
    """

    epsilon: float
    cells: int = _MOST_CELLS

    def __post_init__(self) -> None:
        checked_epsilon(self.epsilon)
        if not 4 <= self.cells <= _MOST_CELLS or self.window >= self.cells:
            raise ConfigError(f"Expected 4 <= cells <= 2**24, got cells={self.cells}.")

    @cached_property
    def window(self) -> int:
        """Cells in the window: the share (C - 1) / 2 C = 1 / (e**(epsilon / 2) + 1)."""
        return max(1, round(self.cells / (math.exp(self.epsilon / 2) + 1)))

    @cached_property
    def weights(self) -> tuple[int, int]:
        """(a, c), of a cell in the window and of one outside."""
        ratio = exp_below(checked_epsilon(self.epsilon))
        return two_weights(ratio, heavy=self.window, light=self.cells - self.window)

    @cached_property
    def total(self) -> int:
        """M, the sum of all cells' weights."""
        high, low = self.weights
        return self.window * high + (self.cells - self.window) * low

    @cached_property
    def size(self) -> float:
        """The scale of the line's ends that makes reports unbiased (the paper's C)."""
        high, low = self.weights
        pull = Fraction((high - low) * self.window * (self.cells - self.window), self.cells)
        return float(self.total / pull)

    @property
    def spread(self) -> tuple[float, float]:
        """Exact for the grid; the paper's in the limit of many cells."""
        high, low = self.weights
        outside = Fraction(self.window, self.cells)
        everywhere = low * self.cells * (1 - Fraction(1, self.cells**2)) / 3
        inside = (high - low) * self.window * Fraction(self.window**2 - 1, 3 * self.cells**2)
        return self.size**2 * float((everywhere + inside) / self.total), float(
            self.size * (1 - outside) - 1
        )

    def _starts(self, values: NDArray[np.float64]) -> NDArray[np.int64]:
        room = self.cells - self.window
        starts = np.rint((np.clip(values, -1.0, 1.0) + 1) / 2 * room)
        return np.clip(starts.astype(np.int64), 0, room)

    def randomise(self, values: ArrayLike, source: Source) -> NDArray[np.float64]:
        """One report (n,) per value (n,) in [-1, 1]."""
        starts = self._starts(checked_numbers(values))
        high, low = self.weights
        draw = below(source, self.total, len(starts))
        outside = (draw - self.window * high) // low
        outside += np.where(outside >= starts, self.window, 0)
        cells = np.where(draw < self.window * high, starts + draw // high, outside)
        return self.size * ((2 * cells + 1) / self.cells - 1)

    def likelihoods(self, value: float) -> Mapping[int, Fraction]:
        """Each cell's exact probability."""
        start = int(self._starts(np.array([value]))[0])
        high, low = self.weights
        return {
            cell: Fraction(high if start <= cell < start + self.window else low, self.total)
            for cell in range(self.cells)
        }


@dataclass(frozen=True, kw_only=True)
class Hybrid:
    """Piecewise or Duchi by a coin that ignores the value (Wang et al. 2019, HM).

    The coin shows piecewise with probability 1 - e**(-epsilon / 2), rounded to 2**-64, above
    epsilon* = 0.61, and never below. A mixture by such a coin keeps epsilon, whatever its odds.
    """

    epsilon: float
    cells: int = _MOST_CELLS

    @cached_property
    def piecewise(self) -> Piecewise:
        """The one part."""
        return Piecewise(epsilon=self.epsilon, cells=self.cells)

    @cached_property
    def duchi(self) -> Duchi:
        """The other part."""
        return Duchi(epsilon=self.epsilon)

    def __post_init__(self) -> None:
        checked_epsilon(self.epsilon)

    @cached_property
    def coin(self) -> int:
        """How often it shows piecewise, in 2**-64."""
        return 0 if self.epsilon <= HYBRID_FROM else int(-math.expm1(-self.epsilon / 2) * WORD)

    @property
    def spread(self) -> tuple[float, float]:
        """The mixture of the two: both parts are unbiased."""
        share = self.coin / WORD
        pairs = zip(self.piecewise.spread, self.duchi.spread, strict=True)
        first, second = (share * a + (1 - share) * b for a, b in pairs)
        return first, second

    def randomise(self, values: ArrayLike, source: Source) -> NDArray[np.float64]:
        """One report (n,) per value (n,) in [-1, 1]."""
        numbers = checked_numbers(values)
        shown = bernoulli(source, self.coin, numbers.shape)
        made = np.empty(len(numbers))
        made[shown] = self.piecewise.randomise(numbers[shown], source)
        made[~shown] = self.duchi.randomise(numbers[~shown], source)
        return made

    def likelihoods(self, value: float) -> Mapping[tuple[str, int], Fraction]:
        """Each part's reports and their exact probabilities."""
        share = Fraction(self.coin, WORD)
        parts = (("piecewise", share, self.piecewise), ("duchi", 1 - share, self.duchi))
        return {
            (name, report): weight * chance
            for name, weight, part in parts
            for report, chance in part.likelihoods(value).items()
        }


def _hybrid_from() -> float:
    """Epsilon*, from which on the mixture is better than Duchi (Wang et al. 2019)."""
    root = 405 * math.sqrt(241)
    return math.log((-5 + 2 * math.cbrt(6353 - root) + 2 * math.cbrt(6353 + root)) / 27)


HYBRID_FROM = _hybrid_from()


def mean_estimate(mechanism: NumericMechanism, reports: ArrayLike) -> MeanEstimate:
    """The mean of reports (n,), with the standard error that the mechanism's variance gives."""
    given = checked_numbers(reports)
    if not len(given):
        raise DataError("Expected at least one report, got none.")
    constant, square = mechanism.spread
    # E[report^2] = v0 + (v1 + 1) x^2 tells the mean square of the values.
    squares = (float(np.mean(given**2)) - constant) / (square + 1) if square > -1 else 0.0
    spread = constant + square * min(1.0, max(float(np.mean(given)) ** 2, squares, 0.0))
    error = math.sqrt(max(spread, 0.0) / len(given))
    return MeanEstimate(mean=float(given.mean()), standard_error=error, reports=len(given))


def to_unit(values: ArrayLike, lower: float, upper: float) -> NDArray[np.float64]:
    """Values (n,) clamped to the public bounds and mapped to [-1, 1]."""
    check_bounds(lower, upper)
    numbers = np.clip(checked_numbers(values), lower, upper)
    made: NDArray[np.float64] = np.clip((numbers - lower) / (upper - lower) * 2 - 1, -1.0, 1.0)
    return made


def from_unit(estimate: MeanEstimate, lower: float, upper: float) -> MeanEstimate:
    """An estimate on [-1, 1] in the units of the bounds."""
    half = (upper - lower) / 2
    return MeanEstimate(
        mean=lower + half * (estimate.mean + 1),
        standard_error=half * estimate.standard_error,
        reports=estimate.reports,
    )


def checked_numbers(values: ArrayLike) -> NDArray[np.float64]:
    """Finite numbers (n,) as float64; `DataError` for anything else."""
    array = np.asarray(values)
    if array.ndim != 1 or array.dtype.kind not in "iufb":
        raise DataError(
            f"Expected numbers of shape (n,), got dtype={array.dtype}, shape={array.shape}."
        )
    made = array.astype(np.float64)
    if not np.isfinite(made).all():
        raise DataError(
            "Expected finite numbers, got NaN or infinity. Drop such records, or put a fixed value "
            "in their place, by a rule that doesn't depend on other records."
        )
    return made
