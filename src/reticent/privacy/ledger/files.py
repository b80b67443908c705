"""The digests of a file's records: CSV, Parquet or NPZ, row by row, as they lie in the file."""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from reticent.errors import ConfigError, DataError, MissingExtraError
from reticent.privacy.ledger.identity import record_digests, user_digests


def file_digests(path: Path, *, user: str | None = None) -> list[tuple[str, ...]]:
    """One collection of digests per unit of the file, as `Ledger.grant` takes them.

    Without `user` each record is a unit. With it, the name of a column or array of user ids, each
    user is one, known by the id and by every record. The same table as CSV and as Parquet gives
    the same digests. Nothing in a file is executed. Raises `DataError` for a file that is no
    table, `ConfigError` for an unknown column or kind of file, `MissingExtraError` for Parquet
    without pyarrow.
    """
    columns = _columns(path)
    if user is None:
        return [(digest,) for digest in record_digests(columns)]
    if user not in columns:
        raise ConfigError(
            f"Expected one of the columns {sorted(columns)[:12]}, got user={user!r}. "
            "Name the column of user ids."
        )
    return user_digests(columns, user)


def _columns(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise DataError(f"Expected a file, got data={str(path)!r}: it isn't there.")
    kind = path.suffix.lower()
    if kind == ".csv":
        return _csv_columns(path)
    if kind == ".npz":
        return _npz_columns(path)
    if kind == ".parquet":
        return _parquet_columns(path)
    raise ConfigError(
        f"Expected a file ending in .csv, .npz or .parquet, got data={str(path)!r}. Convert it."
    )


def _csv_columns(path: Path) -> Mapping[str, Any]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"Expected CSV in UTF-8, got data={str(path)!r}: {error}.") from None
    names, *records = rows or [[]]
    if len(set(names)) != len(names) or not records:
        raise DataError(
            f"Expected a line of distinct column names and records below it, got {names[:8]} and "
            f"{len(records)} records in data={str(path)!r}."
        )
    for number, record in enumerate(records, 1):
        if len(record) != len(names):
            raise DataError(
                f"Expected {len(names)} cells in each record, got {len(record)} in "
                f"record={number} of data={str(path)!r}."
            )
    return dict(zip(names, zip(*records, strict=True), strict=True))


def _npz_columns(path: Path) -> Mapping[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            made = {name: arrays[name] for name in arrays.files}
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise DataError(f"Expected arrays in data={str(path)!r}, got: {error}.") from None
    single = [name for name, values in made.items() if values.ndim == 0]
    if single:
        raise DataError(f"Expected one value per record, got single values {single}. Drop them.")
    return made


def _parquet_columns(path: Path) -> Mapping[str, Any]:
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise MissingExtraError("pyarrow", "data") from None
    return {str(k): v for k, v in parquet.read_table(path).to_pydict().items()}
