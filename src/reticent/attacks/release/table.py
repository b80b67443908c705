"""An encoding of mixed columns: numbers and categories of a table as points and as codes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from reticent.errors import DataError
from reticent.random import seeded

Columns = Mapping[str, NDArray[Any]]
UNKNOWN = -1.0
"""The code of a category that the encoding never met."""
_NUMERIC = "iuf"
_MOST_PLACES = 256
_DIMENSIONS = 128


@dataclass(frozen=True, kw_only=True, eq=False)
class Encoding:
    """How each column of a table is compared, learnt from the tables that the attacker holds.

    `scales` holds the standard deviation of each numeric column (1 where it is constant),
    `categories` the sorted distinct values of every other column.
    """

    scales: Mapping[str, float]
    categories: Mapping[str, NDArray[Any]]
    names: tuple[str, ...]

    @classmethod
    def of(cls, *tables: Columns, names: Iterable[str] | None = None) -> Self:
        """The encoding of the columns `names` (default: all of the first table) over `tables`.

        Integers and floats are numbers; booleans, text and anything else are categories. Raises
        `DataError` for missing columns, columns of unequal length, or numbers that are not finite.
        """
        wanted = tuple(tables[0]) if names is None else tuple(names)
        scales: dict[str, float] = {}
        categories: dict[str, NDArray[Any]] = {}
        for table in tables:
            rows_of(table, wanted)
        for name in wanted:
            parts = [np.asarray(table[name]) for table in tables]
            if all(part.dtype.kind in _NUMERIC for part in parts):
                spread = float(np.std(np.concatenate(parts).astype(np.float64)))
                scales[name] = spread if spread > 0 else 1.0
            else:
                categories[name] = np.unique(np.concatenate([_as_text(part) for part in parts]))
        return cls(scales=scales, categories=categories, names=wanted)

    def is_numeric(self, name: str) -> bool:
        """Whether the column holds numbers."""
        return name in self.scales

    def codes(self, table: Columns, names: Sequence[str] | None = None) -> NDArray[np.float64]:
        """The columns (n, c): numbers as they are, categories as indices, unknown ones as -1."""
        wanted = self.names if names is None else tuple(names)
        made = np.empty((rows_of(table, wanted), len(wanted)), order="F")
        for column, name in enumerate(wanted):
            values = np.asarray(table[name])
            if name in self.scales:
                made[:, column] = values.astype(np.float64)
                continue
            known, text = self.categories[name], _as_text(values)
            place = np.minimum(np.searchsorted(known, text), len(known) - 1)
            made[:, column] = np.where(known[place] == text, place, UNKNOWN)
        return made

    def points(self, table: Columns, names: Sequence[str] | None = None) -> NDArray[np.float32]:
        """The columns as points (n, d) whose squared Euclidean distance treats kinds alike.

        A number counts in units of two standard deviations; two different categories are a
        distance of 1 apart, a category never met too (after the heterogeneous metric of Wilson
        and Martinez 1997, section 2.3). Columns of more than 256 categories get fixed random
        directions in 128 dimensions instead of one each: different ones are then about 1 apart.
        """
        wanted = self.names if names is None else tuple(names)
        coded, parts = self.codes(table, wanted), []
        for column, name in enumerate(wanted):
            values = coded[:, column]
            if name in self.scales:
                parts.append((values / (2 * self.scales[name])).astype(np.float32)[:, None])
                continue
            # The last place is for unknown categories: index -1 lands there.
            count = len(self.categories[name]) + 1
            parts.append(_places(count)[values.astype(np.int64)])
        return np.hstack(parts)


def rows_of(table: Columns, names: Sequence[str]) -> int:
    """The number of rows of a table that has all columns `names`, of one length and finite.

    Raises `DataError` otherwise.
    """
    absent = [name for name in names if name not in table]
    if absent or not names:
        raise DataError(f"Expected the columns {list(names)}, got only {list(table)}.")
    lengths = {len(table[name]) for name in names}
    if len(lengths) != 1 or 0 in lengths:
        raise DataError(f"Expected columns of one length >= 1, got lengths={sorted(lengths)}.")
    for name in names:
        values = np.asarray(table[name])
        if values.ndim != 1:
            raise DataError(f"Expected one value a row in {name!r}, got shape={values.shape}.")
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise DataError(
                f"Expected finite numbers in {name!r}, got NaN or infinity. Leave those rows out, "
                "or turn the column into text."
            )
    return lengths.pop()


def take(table: Columns, rows: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """The rows `rows` (indices, or a mask) of every column."""
    return {name: np.asarray(values)[rows] for name, values in table.items()}


def equivalence_classes(codes: NDArray[np.float64]) -> NDArray[np.int64]:
    """The class (n,) of each row of codes (n, c): rows share one if all their columns agree."""
    found = np.zeros(len(codes), dtype=np.int64)
    for column in range(codes.shape[1]):
        values = np.unique(codes[:, column], return_inverse=True)[1].reshape(-1)
        # Renumbered at each step, so that the product of two ranks stays below n squared.
        found = np.unique(found * (int(values.max()) + 1) + values, return_inverse=True)[1]
        found = found.reshape(-1)
    return found.astype(np.int64)


def _places(count: int) -> NDArray[np.float32]:
    """A point (count, d) per category, any two at squared distance 1, or about 1 if many."""
    if count <= _MOST_PLACES + 1:
        return np.eye(count, dtype=np.float32) * np.float32(np.sqrt(0.5))
    turned = seeded(count, 391).standard_normal((count, _DIMENSIONS))
    turned /= np.sqrt(2) * np.linalg.norm(turned, axis=1, keepdims=True)
    return turned.astype(np.float32)


def _as_text(values: NDArray[Any]) -> NDArray[np.str_]:
    if values.dtype.kind == "U":
        return values
    if values.dtype.kind == "S":
        return np.char.decode(values, "utf-8", "replace")
    return values.astype(str)
