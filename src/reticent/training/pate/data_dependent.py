"""Rényi bounds that depend on the votes, as a public table over private margins.

A question whose margin (see `trace`) is u steps has at most the chance q(u) of another outcome than
its likeliest; theorem 6 of Papernot et al. 2018 turns q into a bound. The bound is read from a
table whose cells are 1/32 of a step wide, at the cell's worse end. The table is public; which cell
a question falls into is private. One teacher moves a question by at most `REACH` cells, so that
local and smooth sensitivity are maxima over finite windows: nothing is left to the fineness of a
numerical search.

**What is bounded.** At order a, the divergence of the outcome on these records from the outcome on
any neighbour, D_a(M(D) || M(D')). The reverse direction is not bounded by it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import special

from reticent.errors import ConfigError
from reticent.training.pate.mechanisms import GNMax, Mechanism

CELLS = 32
"""Cells of a table in one step, the most that one teacher moves a margin."""
REACH = CELLS + 1
"""Cells that one teacher moves a question at most; one more than exact, for rounding."""

_MOST_SCALE = 2048.0
_FURTHEST = 27.0  # q is below 1e-318 here


@dataclass(frozen=True, kw_only=True)
class LossTable:
    """Bounds of one kind of question at one order, by cell of its margin.

    `scale` is sigma for labels among `outcomes` classes, and sqrt(2) times the noise for a check,
    which has two outcomes: either way the bound without data is order / scale^2, and a margin of u
    has q(u) = (outcomes - 1) erfc(u / scale) / 2.
    """

    scale: float
    order: float
    outcomes: int

    def __post_init__(self) -> None:
        if not 1 <= self.scale <= _MOST_SCALE:
            raise ConfigError(
                f"Expected noise of at most {_MOST_SCALE / math.sqrt(2):.0f} votes for a "
                f"data-dependent analysis, got scale={self.scale}. Report the bound without data."
            )
        if not self.order > 1 or self.outcomes < 2:
            raise ConfigError(
                f"Expected order > 1, outcomes >= 2, got {self.order}, {self.outcomes}."
            )

    @cached_property
    def bounds(self) -> NDArray[np.float64]:
        """The bound of each cell in nats, never rising with the margin."""
        margins = np.arange(math.ceil(_FURTHEST * self.scale) * CELLS + 1) / CELLS
        tails = special.log_ndtr(-math.sqrt(2) * margins / self.scale)
        log_q = np.log(self.outcomes - 1) + tails
        found = renyi_bound(log_q, scale=self.scale, order=self.order)
        made: NDArray[np.float64] = np.maximum.accumulate(found[::-1])[::-1]
        return made

    def cells(self, margins: NDArray[np.float64]) -> NDArray[np.int64]:
        """The cell of each margin, rounded towards the worse bound."""
        found = np.floor(margins * CELLS - 1e-3).astype(np.int64)
        return np.clip(found, 0, len(self.bounds) - 1)

    @cached_property
    def _drops(self) -> list[NDArray[np.float64]]:
        """Falls of the bound over `REACH` cells: row k holds maxima over 2^k cells from each."""
        last = len(self.bounds) - 1
        rows = [self.bounds - self.bounds[np.minimum(np.arange(last + 1) + REACH, last)]]
        while 2 << (len(rows) - 1) <= last:
            half, before = 1 << (len(rows) - 1), rows[-1]
            rows.append(np.maximum(before[:-half], before[half:]))
        return rows

    def sensitivity(self, cells: NDArray[np.int64], distance: int) -> NDArray[np.float64]:
        """The most that one teacher can move each bound, after `distance` others were changed.

        The largest fall over `REACH` cells that starts in the window of cells from
        (distance + 1) * REACH below to distance * REACH above.
        """
        last = len(self.bounds) - 1
        start = np.maximum(cells - (distance + 1) * REACH, 0)
        end = np.minimum(cells + distance * REACH, last)
        levels = np.floor(np.log2(end - start + 1)).astype(np.int64)
        levels = np.minimum(levels, len(self._drops) - 1)
        out = np.zeros(len(cells))
        for level in np.unique(levels):
            row, at = self._drops[level], levels == level
            out[at] = np.maximum(row[start[at]], row[end[at] - (1 << level) + 1])
        return out


def renyi_bound(log_q: NDArray[np.float64], *, scale: float, order: float) -> NDArray[np.float64]:
    """Papernot et al. 2018, theorem 6 with the orders of proposition 10; nats, shape of `log_q`.

    mu2 = scale sqrt(log(1 / q)), mu1 = mu2 + 1, epsilon_i = mu_i / scale^2; valid for order <= mu1,
    mu2 > 1 and log q <= (mu2 - 1) epsilon2 - mu2 log(mu1 mu2 / ((mu1 - 1) (mu2 - 1))), below which
    the bound rises with q, so that an upper bound on q will do. Elsewhere, and never above,
    order / scale^2.
    """
    log_q = np.minimum(np.asarray(log_q, dtype=np.float64), 0.0)
    flat = order / scale**2
    mu2 = np.maximum(scale * np.sqrt(-log_q), 1 + 1e-9)
    mu1 = mu2 + 1
    first, second = mu1 / scale**2, mu2 / scale**2
    ceiling = (mu2 - 1) * second - mu2 * (np.log(mu1 / mu2) + np.log(mu2 / (mu2 - 1)))
    is_valid = (order <= mu1) & (mu2 > 1 + 1e-6) & (log_q <= ceiling) & (-log_q > second)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        log_p = np.log1p(-np.exp(log_q))
        other = np.minimum((log_q + second) * (1 - 1 / mu2), -1e-300)
        log_a = log_p - np.log(-np.expm1(other))
        log_b = first - log_q / (mu1 - 1)
        total = np.logaddexp(log_p + (order - 1) * log_a, log_q + (order - 1) * log_b)
        bound = np.maximum(total, 0.0) / (order - 1)
    return np.where(is_valid, np.minimum(bound, flat), flat)


@lru_cache(maxsize=16)
def tables(mechanism: Mechanism, order: float, classes: int) -> tuple[LossTable, LossTable | None]:
    """The tables of labels and of checks, None for GNMax, which has none; kept, being public."""
    labels = LossTable(scale=mechanism.sigma, order=order, outcomes=classes)
    if isinstance(mechanism, GNMax):
        return labels, None
    scale = math.sqrt(2) * mechanism.check_sigma
    return labels, LossTable(scale=scale, order=order, outcomes=2)
