"""Singling out: predicates guessed from a release that hold for exactly one record.

WP29 Opinion 05/2014 (section 2.2.1) calls it isolating some records of an individual. A predicate
that is rare anyway isolates a record of any table with some probability (Cohen and Nissim 2020,
section 2), so the same predicates on records that the release never saw are the control.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import hypergeom

from reticent.attacks.release.table import Encoding
from reticent.errors import DataError

EQUAL, AT_MOST, AT_LEAST = 0, 1, 2
_SIGNS = ("==", "<=", ">=")
_TRIES = 60
_DRAWS = 8
_LIKELY = 4.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Predicates:
    """p conjunctions of w conditions: `columns`, `kinds` (0 ==, 1 <=, 2 >=) and `values`.

    All are (p, w) and speak of the codes that `Encoding.codes` gives.
    """

    columns: NDArray[np.int64]
    kinds: NDArray[np.int8]
    values: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.columns)

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> Predicates:
        """The predicates at `rows` (indices, or a mask)."""
        return Predicates(
            columns=self.columns[rows], kinds=self.kinds[rows], values=self.values[rows]
        )

    def matches(self, codes: NDArray[np.float64]) -> NDArray[np.int64]:
        """How many rows of `codes` (n, c) each predicate holds for, (p,)."""
        found = np.empty(len(self), dtype=np.int64)
        tables = [np.ascontiguousarray(codes[:, column]) for column in range(codes.shape[1])]
        for index in range(len(self)):
            rows: NDArray[np.int64] | None = None
            for column, kind, value in zip(
                self.columns[index], self.kinds[index], self.values[index], strict=True
            ):
                seen = tables[column] if rows is None else tables[column][rows]
                if kind == EQUAL:
                    holds = seen == value
                else:
                    holds = seen <= value if kind == AT_MOST else seen >= value
                rows = np.flatnonzero(holds) if rows is None else rows[holds]
            found[index] = 0 if rows is None else len(rows)
        return found

    def describe(self, index: int, encoding: Encoding) -> str:
        """One predicate in words, such as ``age >= 90 and sex == Female``."""
        parts = []
        for column, kind, value in zip(
            self.columns[index], self.kinds[index], self.values[index], strict=True
        ):
            name = encoding.names[column]
            shown = (
                f"{value:g}" if encoding.is_numeric(name) else encoding.categories[name][int(value)]
            )
            parts.append(f"{name} {_SIGNS[kind]} {shown}")
        return " and ".join(parts)


def univariate(
    codes: NDArray[np.float64], encoding: Encoding, *, count: int, rng: np.random.Generator
) -> Predicates:
    """At most `count` conditions on one column that hold for exactly one row of the release.

    A value that occurs once, and the extremes of a numeric column that are reached once.
    """
    columns, kinds, values = [], [], []
    for column, name in enumerate(encoding.names):
        distinct, times = np.unique(codes[:, column], return_counts=True)
        once = distinct[times == 1]
        conditions = [(EQUAL, value) for value in once]
        if encoding.is_numeric(name):
            conditions += [
                (kind, distinct[place])
                for kind, place in ((AT_MOST, 0), (AT_LEAST, -1))
                if times[place] == 1
            ]
        columns += [column] * len(conditions)
        kinds += [kind for kind, _value in conditions]
        values += [value for _kind, value in conditions]
    made = Predicates(
        columns=np.array(columns, dtype=np.int64).reshape(-1, 1),
        kinds=np.array(kinds, dtype=np.int8).reshape(-1, 1),
        values=np.array(values, dtype=np.float64).reshape(-1, 1),
    )
    return made.take(rng.permutation(len(made))[:count])


def multivariate(
    codes: NDArray[np.float64],
    encoding: Encoding,
    *,
    count: int,
    width: int,
    rng: np.random.Generator,
    exact: bool = False,
) -> Predicates:
    """At most `count` conjunctions over `width` columns that hold for one row of the release only.

    A row is drawn and `width` of its columns; a category must equal the row's, a number must be
    at least as extreme as the row's, away from the median (or equal it, with `exact`). What holds
    for other rows too is dropped; fewer than `count` come back where rows are hard to tell apart.
    Raises `DataError` for more conditions than columns.
    """
    places = codes.shape[1]
    if not 1 <= width <= places:
        raise DataError(f"Expected 1 <= width <= {places} columns, got width={width}.")
    middle = np.median(codes, axis=0)
    numeric = np.array([encoding.is_numeric(name) for name in encoding.names])
    kept = np.empty((0, 3 * width))
    ordered = np.sort(codes, axis=0)
    for _ in range(_TRIES):
        rows = rng.integers(len(codes), size=_DRAWS * count)
        columns = rng.random((len(rows), places)).argpartition(width - 1, axis=1)[:, :width]
        columns.sort(axis=1)
        values = codes[rows[:, None], columns]
        kinds = np.where(values >= middle[columns], AT_LEAST, AT_MOST)
        kinds = np.where(numeric[columns] & (not exact), kinds, EQUAL).astype(np.int8)
        tried = Predicates(columns=columns, kinds=kinds, values=values)
        # Counting is dear, guessing cheap: what would hold for many rows of independent columns
        # hardly ever holds for one.
        tried = tried.take(_expected(tried, ordered) <= _LIKELY)
        alone = tried.take(tried.matches(codes) == 1)
        kept = np.vstack([kept, np.hstack([alone.columns, alone.kinds, alone.values])])
        kept = kept[np.sort(np.unique(kept, axis=0, return_index=True)[1])]
        if len(kept) >= count:
            break
    chosen = np.hsplit(kept[:count], 3)
    return Predicates(
        columns=chosen[0].astype(np.int64),
        kinds=chosen[1].astype(np.int8),
        values=np.ascontiguousarray(chosen[2]),
    )


def _expected(predicates: Predicates, ordered: NDArray[np.float64]) -> NDArray[np.float64]:
    """How many rows (p,) each predicate would hold for if columns were independent.

    `ordered` (n, c) has each column sorted.
    """
    shares = np.empty(predicates.values.shape)
    for column in range(ordered.shape[1]):
        here = predicates.columns == column
        values = predicates.values[here]
        below = np.searchsorted(ordered[:, column], values, side="left")
        upto = np.searchsorted(ordered[:, column], values, side="right")
        kind = predicates.kinds[here]
        held = np.where(kind == AT_MOST, upto, len(ordered) - below)
        shares[here] = np.where(kind == EQUAL, upto - below, held) / len(ordered)
    return np.asarray(len(ordered) * shares.prod(axis=1))


def isolation(matches: NDArray[np.int64], rows: int, sample: int) -> NDArray[np.float64]:
    """The probability (p,) that exactly one of the matching rows is in a sample of the table.

    `sample` of `rows` rows, without replacement: a (C(rows - a, sample - 1) / C(rows, sample)) for
    a matches. It is 1 for one match and 0 otherwise where the sample is the whole table.
    """
    if sample >= rows:
        return np.asarray(matches == 1, dtype=np.float64)
    return np.asarray(hypergeom.pmf(1, rows, matches, sample), dtype=np.float64)
