"""The scoreboard: a few known ratings of a person find that person in released ratings.

Narayanan and Shmatikov 2008, "Robust de-anonymization of large sparse datasets", section 4
(Scoreboard-RH) with the weights and tolerances of section 5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reticent.attacks.linkage.ratings import Ratings
from reticent.errors import ConfigError, DataError

VALUE_SCALE = 1.5
DAY_SCALE = 30.0
ECCENTRICITY = 1.5


@dataclass(frozen=True, kw_only=True, eq=False)
class Links:
    """For each of t targets, the released users that fit best.

    `candidates` (t, k) best first with their `scores` (t, k); `eccentricity` (t,) is how far the
    best stands out: its lead over the second in standard deviations of all scores.
    """

    candidates: NDArray[np.int64]
    scores: NDArray[np.float64]
    eccentricity: NDArray[np.float64]

    def accepted(self, threshold: float = ECCENTRICITY) -> NDArray[np.bool_]:
        """Which targets (t,) the adversary claims to have found."""
        return np.asarray(self.eccentricity >= threshold)


class Scoreboard:
    """Released ratings, indexed by item so that a target costs what its items' raters are.

    Score of released user r for known ratings: sum over the items both rated of w_i
    (exp(-|rating difference| / 1.5) + exp(-|day difference| / 30)), w_i = 1 / log |raters of i|;
    without days the second term is left out.
    """

    def __init__(
        self,
        released: Ratings,
        *,
        value_scale: float = VALUE_SCALE,
        day_scale: float = DAY_SCALE,
    ) -> None:
        if not (value_scale > 0 and day_scale > 0) or len(released) < 2:
            raise ConfigError(
                f"Expected positive scales and two users or more, got {value_scale=}, "
                f"{day_scale=}, users={len(released)}."
            )
        self._users = len(released)
        self._width = released.width
        order = np.argsort(released.items, kind="stable")
        owner = np.repeat(np.arange(len(released)), np.diff(released.starts))
        self._raters = owner[order]
        support = released.support()
        self._bounds = np.concatenate([[0], np.cumsum(support)])
        # An item with one rater: as if it had two, for log 1 is 0.
        self._weights = 1.0 / np.log(np.maximum(support, 2))
        self._value = _Grid.of(released.values[order], value_scale)
        self._day = None
        if released.days is not None:
            self._day = _Grid.of(released.days[order].astype(np.float64), day_scale)

    def match(self, known: Ratings, *, lineup: int = 2) -> Links:
        """The `lineup` best released users for each row of `known`, and their eccentricity.

        Raises `DataError` where `known` has other items, or days against a release without them.
        """
        if known.width != self._width:
            raise DataError(f"Expected ratings of {self._width} items, got {known.width}.")
        lineup = min(max(2, lineup), self._users)
        best = np.empty((len(known), lineup), dtype=np.int64)
        scores = np.empty((len(known), lineup))
        lead = np.empty(len(known))
        for target in range(len(known)):
            board = self._board(known, slice(known.starts[target], known.starts[target + 1]))
            if lineup == 2:
                # Two passes beat a partition of all users.
                first = int(board.argmax())
                top = board[first]
                board[first] = -1.0
                second = int(board.argmax())
                board[first] = top
                best[target] = first, second
            else:
                few = np.argpartition(board, -lineup)[-lineup:]
                best[target] = few[np.argsort(-board[few], kind="stable")]
            scores[target] = board[best[target]]
            spread = np.sqrt(max(float(board @ board) / self._users - float(board.mean()) ** 2, 0))
            gap = scores[target, 0] - scores[target, 1]
            lead[target] = gap / spread if spread > 0 else 0.0
        return Links(candidates=best, scores=scores, eccentricity=lead)

    def _board(self, known: Ratings, entries: slice) -> NDArray[np.float64]:
        """The score (users,) of every released user for one target."""
        raters, parts = [], []
        for index in range(entries.start, entries.stop):
            item = known.items[index]
            span = slice(self._bounds[item], self._bounds[item + 1])
            if span.start == span.stop:
                continue
            fit = self._value.fit(known.values[index], span)
            if self._day is not None and known.days is not None:
                fit = fit + self._day.fit(float(known.days[index]), span)
            raters.append(self._raters[span])
            parts.append(self._weights[item] * fit)
        if not raters:
            return np.zeros(self._users)
        board = np.bincount(
            np.concatenate(raters), weights=np.concatenate(parts), minlength=self._users
        )
        return board.astype(np.float64, copy=False)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Grid:
    """Released numbers as indices into their distinct values: one exponential per value."""

    levels: NDArray[np.float64]
    codes: NDArray[Any]
    scale: float

    @classmethod
    def of(cls, values: NDArray[np.float64], scale: float) -> _Grid:
        levels, codes = np.unique(values, return_inverse=True)
        small = np.uint8 if len(levels) <= 256 else np.uint16 if len(levels) <= 65536 else np.int64
        return cls(levels=levels, codes=codes.reshape(-1).astype(small), scale=scale)

    def fit(self, value: float, span: slice) -> NDArray[np.float64]:
        """exp(-|value - released| / scale) of the released numbers in `span`."""
        table = np.exp(-np.abs(self.levels - value) / self.scale)
        return np.asarray(table[self.codes[span]])
