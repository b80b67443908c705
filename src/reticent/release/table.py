"""Tables to release from: columns of a CSV or Parquet file or of arrays; rows by public rules."""

from __future__ import annotations

import csv
import difflib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from reticent.errors import ConfigError, DataError, MissingExtraError

Table = Mapping[str, Sequence[Any] | NDArray[Any]]
Missing = Literal["refuse", "drop"]
# What Arrow calls missing by default, and the question mark of the UCI tables.
_MISSING = {"", "?", "na", "n/a", "#n/a", "nan", "-nan", "null", "none"}


def read_table(data: Path | Table) -> Table:
    """The columns of a `.csv` or `.parquet` file, cells as they lie there; a mapping as it is.

    `DataError` for a file that is no table, `ConfigError` for another kind of file. Nothing in a
    file is executed.
    """
    if isinstance(data, Mapping):
        return data
    if data.suffix.lower() == ".parquet":
        return _read_parquet(data)
    if data.suffix.lower() == ".csv":
        return _read_csv(data)
    raise ConfigError(
        f"Expected a table ending in .csv or .parquet, got data={str(data)!r}. Convert it."
    )


def _read_csv(path: Path) -> Table:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            names, *rows = [row for row in csv.reader(file) if row] or [[]]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"Expected CSV in UTF-8, got data={str(path)!r}: {error}.") from None
    if len(set(names)) != len(names) or any(len(row) != len(names) for row in rows):
        raise DataError(
            f"Expected distinct column names and {len(names)} cells in each record, got others in "
            f"data={str(path)!r}."
        )
    columns = zip(*rows, strict=True) if rows else ([] for _ in names)
    return dict(zip(names, columns, strict=True))


def _read_parquet(path: Path) -> Table:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise MissingExtraError("pyarrow", "release") from None
    try:
        return {str(k): v for k, v in parquet.read_table(path).to_pydict().items()}
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise DataError(f"Expected Parquet, got data={str(path)!r}: {error}.") from None


def size(table: Table) -> int:
    """How many records there are; `DataError` for columns of different length."""
    lengths = {len(values) for values in table.values()}
    if len(lengths) != 1:
        raise DataError(f"Expected columns of one length, got lengths={sorted(lengths)}.")
    return lengths.pop()


def expect_columns(table: Table, names: Sequence[str]) -> None:
    """`DataError` that names the nearest column where one is missing."""
    for name in names:
        if name not in table:
            near = difflib.get_close_matches(name, table, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"It has {sorted(table)[:12]}."
            raise DataError(f"Expected a column of the table, got column={name!r}. {hint}")


def numbers(table: Table, column: str) -> NDArray[np.float64]:
    """A column (n,) as numbers, NaN where missing; `DataError` for text and for infinity."""
    values = table[column]
    if isinstance(values, np.ndarray) and values.dtype.kind in "iufb":
        made = values.astype(np.float64)
    else:
        made = np.array([_number(value, column) for value in values], dtype=np.float64)
    if np.isinf(made).any():
        raise DataError(f"Expected finite numbers, got infinity in column={column!r}. Repair it.")
    return made


def _number(value: Any, column: str) -> float:
    if _is_missing(value):
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError):
        raise DataError(
            f"Expected numbers in column={column!r}, got text. Choose another column, or a "
            "histogram of categories."
        ) from None


def texts(table: Table, column: str) -> list[str | None]:
    """A column (n,) as text in one form, so that 1, 1.0 and "1" are one category; None: missing."""
    values = table[column]
    listed = values.tolist() if isinstance(values, np.ndarray) else values
    return [None if _is_missing(value) else canonical(value) for value in listed]


def canonical(value: Any) -> str:
    """The one form of a category."""
    text = str(value).strip()
    try:
        number = float(text)
    except ValueError:
        return text
    return str(int(number)) if number.is_integer() else repr(number)


def codes(table: Table, column: str, categories: Sequence[str]) -> NDArray[np.int64]:
    """A column (n,) as places in the public list of categories; -1 for others, -2 for missing."""
    places: dict[str | None, int] = {canonical(name): at for at, name in enumerate(categories)}
    if len(places) != len(categories) or not categories:
        raise ConfigError(f"Expected distinct categories, got {list(categories)[:12]}.")
    places[None] = -2
    return np.array([places.get(text, -1) for text in texts(table, column)], dtype=np.int64)


def first_of_each_user(table: Table, user: str, contributions: int) -> NDArray[np.bool_]:
    """The rows (n,) to keep so that no user has more than `contributions`: each one's first.

    Which rows of one user are kept doesn't depend on other users, so a user more or less changes
    at most `contributions` kept rows. A record without a user is its own.
    """
    seen: dict[str, int] = {}
    kept = np.zeros(size(table), dtype=np.bool_)
    for row, name in enumerate(texts(table, user)):
        if name is None:
            kept[row] = True
            continue
        seen[name] = seen.get(name, 0) + 1
        kept[row] = seen[name] <= contributions
    return kept


def _is_missing(value: Any) -> bool:
    if value is None:
        return True
    return str(value).strip().lower() in _MISSING
