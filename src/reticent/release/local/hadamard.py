"""Hadamard response: a column of a Hadamard matrix that agrees with the value's row more often."""

from __future__ import annotations

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
    plausible,
)
from reticent.release.local.weights import checked_epsilon, exp_below, two_weights


@dataclass(frozen=True, kw_only=True)
class HadamardResponse:
    """Hadamard response (Acharya, Sun & Zhang 2019, for general privacy).

    The reports are B blocks of b columns, both powers of two, B at most e**epsilon. Value x belongs
    to block x // (b - 1) and there to row j = x mod (b - 1) + 1 of the b x b Hadamard matrix; the
    b / 2 columns of its block where the row is +1 have weight a, all other reports weight c,
    a <= e**epsilon c. A report takes log2(B b) bits, and all counts take time n + B b log b.
    Reports are (n,) int64.
    """

    categories: int
    epsilon: float

    def __post_init__(self) -> None:
        checked_categories(self.categories)
        checked_epsilon(self.epsilon)

    @cached_property
    def blocks(self) -> int:
        """B, the largest power of two that neither e**epsilon nor k exceeds."""
        return 1 << int(math.log2(min(math.exp(self.epsilon), self.categories)))

    @cached_property
    def columns(self) -> int:
        """b, the smallest power of two with B (b - 1) >= k."""
        return 1 << math.ceil(math.log2(-(-self.categories // self.blocks) + 1))

    @cached_property
    def weights(self) -> tuple[int, int]:
        """(a, c)."""
        half = self.columns // 2
        ratio = exp_below(checked_epsilon(self.epsilon))
        return two_weights(ratio, heavy=half, light=self.blocks * self.columns - half)

    @cached_property
    def total(self) -> int:
        """M, the sum of all reports' weights."""
        high, low = self.weights
        half = self.columns // 2
        return half * high + (self.blocks * self.columns - half) * low

    def randomise(self, values: ArrayLike, source: Source) -> NDArray[np.int64]:
        """One report (n,) per value (n,)."""
        held = checked_values(values, self.categories)
        block, row = np.divmod(held, self.columns - 1)
        row += 1
        high, low = self.weights
        half = self.columns // 2
        draw = below(source, self.total, len(held))
        agrees = draw < half * high
        place = np.where(agrees, draw // high, (draw - half * high) // low)
        # Places 0 to b / 2 - 1 lie in the own block, with the row's +1 or -1; the rest elsewhere.
        near = block * self.columns + _column(row, place % half, agrees)
        far_block, far_column = np.divmod(place - half, self.columns)
        far_block += far_block >= block
        far = far_block * self.columns + far_column
        return np.asarray(np.where(agrees | (place < half), near, far), dtype=np.int64)

    def estimate(self, reports: NDArray[Any]) -> Estimate:
        """Counts (k,) from reports (n,).

        Whoever holds x reports, in x's block, a column with +1 rather than -1 in x's row with
        excess probability (b / 2)(a - c) / M; everybody else does so with excess 0, because two
        rows agree in half of the columns and a row sums to 0. So the row's product with the
        histogram of the block, over that excess, is unbiased.
        """
        given = checked_values(reports, self.blocks * self.columns)
        histogram = np.bincount(given, minlength=self.blocks * self.columns).astype(np.float64)
        products = _walsh(histogram.reshape(self.blocks, self.columns))[:, 1:].reshape(-1)
        counts = products[: self.categories] / self._excess
        spread = self.variance(len(given), plausible(counts))
        return Estimate(counts=counts, standard_errors=np.sqrt(spread), reports=len(given))

    @cached_property
    def _excess(self) -> float:
        high, low = self.weights
        return float(Fraction(self.columns // 2 * (high - low), self.total))

    def variance(self, n: int, frequencies: ArrayLike) -> NDArray[np.float64]:
        """Variance (k,) of the counts; it depends on how many people hold the block's values."""
        shares = checked_frequencies(frequencies, self.categories)
        high, low = self.weights
        half = self.columns // 2
        own = float(Fraction(half * (high + low), self.total)) / self._excess**2
        away = float(Fraction(2 * half * low, self.total)) / self._excess**2
        block = np.arange(self.categories) // (self.columns - 1)
        near = np.bincount(block, weights=shares, minlength=self.blocks)[block]
        made: NDArray[np.float64] = n * (near * own + (1 - near) * away - shares)
        return made

    def likelihoods(self, value: int) -> Mapping[int, Fraction]:
        """Each report's exact probability."""
        high, low = self.weights
        block, row = divmod(value, self.columns - 1)
        made = {}
        for report in range(self.blocks * self.columns):
            there, column = divmod(report, self.columns)
            agrees = there == block and (column & (row + 1)).bit_count() % 2 == 0
            made[report] = Fraction(high if agrees else low, self.total)
        return made


def _column(
    row: NDArray[np.int64], place: NDArray[np.int64], agrees: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """The `place`-th column where the row has +1 (`agrees`) or -1, all (n,).

    Entry (j, y) is -1 to the number of ones in j & y. A bit put into `place` where the row has its
    lowest one sets the sign.
    """
    lowest = row & -row
    low_part = place & (lowest - 1)
    column = ((place - low_part) << 1) | low_part
    odd = (np.bitwise_count(column & row) % 2).astype(np.bool_)
    return np.where(odd == agrees, column | lowest, column)


def _walsh(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """The Walsh-Hadamard transform of each row (B, b), b a power of two."""
    made, width = table.copy(), 1
    while width < table.shape[1]:
        halves = made.reshape(len(made), -1, 2, width)
        made = np.stack([halves.sum(axis=2), halves[:, :, 0] - halves[:, :, 1]], axis=2)
        made, width = made.reshape(table.shape), 2 * width
    return made
