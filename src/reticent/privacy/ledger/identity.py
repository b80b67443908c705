"""Whose budget it is: digests of records that survive renaming and re-ordering.

A record's digest covers the multiset of its cells: not the file's name, not the order of rows or
of columns, not the columns' names, not whether a number came as text. Two records that this
confuses share a budget, which errs on the safe side.

Content identity stops copies and accidents. It does not stop an owner who alters every record:
who may register data is a matter of access to the ledger.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reticent.errors import DataError


def record_digests(columns: Mapping[str, Any]) -> list[str]:
    """One SHA-256 (hex) per record; `columns` maps names to (n,) cells or (n, ...) arrays.

    Raises `DataError` for no columns, no records, or columns of different length.
    """
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) != 1 or not next(iter(lengths.values())):
        raise DataError(
            f"Expected columns of one length above 0, got lengths={lengths}. Give every record."
        )
    cells = [_cells(values) for values in columns.values()]
    return [hashlib.sha256(b"".join(sorted(row))).hexdigest() for row in zip(*cells, strict=True)]


def user_digests(columns: Mapping[str, Any], user: str) -> list[tuple[str, ...]]:
    """One collection of digests per user: of the id in the column `user`, and of each record."""
    ids = record_digests({user: columns[user]})
    units: dict[str, dict[str, None]] = {}
    for name, digest in zip(ids, record_digests(columns), strict=True):
        # An id is no record: a table of ids alone must not stand in for its users' records.
        units.setdefault(f"user {name}", {})[digest] = None
    return [(name, *digests) for name, digests in units.items()]


def dataset_digest(digests: Iterable[str]) -> str:
    """SHA-256 (hex) of the multiset of record digests."""
    return hashlib.sha256("\n".join(sorted(digests)).encode()).hexdigest()


def _cells(values: Any) -> list[bytes]:
    """Each record's cell as 33 bytes: a tag that keeps kinds apart, then a digest."""
    array = values if isinstance(values, np.ndarray) else None
    if array is not None and array.ndim > 1:
        return [_tagged(b"a", row.tobytes()) for row in _numbers(array)]
    if array is not None and array.dtype.kind in "biuf":
        return [_tagged(b"n", number.tobytes()) for number in _numbers(array)]
    listed: Sequence[Any] = array.tolist() if array is not None else values
    return [_cell(value) for value in listed]


def _cell(value: Any) -> bytes:
    if isinstance(value, bytes):
        return _tagged(b"b", value)
    text = "" if value is None else str(value).strip()
    try:
        number = float(value if isinstance(value, int | float) else text)
    except (ValueError, OverflowError):
        return _tagged(b"t", text.encode())
    if math.isnan(number):
        # "nan" as text and NaN as a number are the same missing value.
        return _tagged(b"n", _numbers(np.array([math.nan]))[0].tobytes())
    return _tagged(b"n", _numbers(np.array([number]))[0].tobytes())


def _numbers(array: NDArray[Any]) -> NDArray[np.float64]:
    """Little-endian float64 with one zero and one NaN."""
    if array.dtype.kind not in "biuf":
        raise DataError(
            f"Expected numbers in a column of arrays, got dtype={array.dtype}. "
            "Give text as columns of its own."
        )
    made = array.astype("<f8") + 0.0
    made[np.isnan(made)] = np.nan
    return np.ascontiguousarray(made)


def _tagged(tag: bytes, content: bytes) -> bytes:
    return tag + hashlib.sha256(content).digest()
