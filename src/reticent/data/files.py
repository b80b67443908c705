"""Files: the user's own arrays and tables as tasks."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from reticent.data.columns import (
    as_names,
    encode_private,
    encode_public,
    encode_units,
    from_columns,
)
from reticent.data.task import Kind, Task
from reticent.errors import ConfigError, DataError, MissingExtraError

SUFFIXES = (".npz", ".csv", ".parquet")
# What Arrow calls missing by default, and the question mark of the UCI tables.
_NULLS = ("", "?", "NA", "N/A", "#N/A", "NaN", "nan", "-nan", "NULL", "null", "None")

# What `from_columns` takes beyond the labels; an array has no columns to name or leave out.
_ARRAY_OPTIONS = frozenset({"kind", "bins"})
_TABLE_OPTIONS = _ARRAY_OPTIONS | {"user", "recording", "keep_private", "drop", "missing"}

Unit = Literal["record", "user"]


def from_file(
    path: Path | str,
    *,
    public: str | None = None,
    private: Sequence[str] = (),
    unit: Unit = "record",
    missing: Literal["error", "drop"] = "error",
    **options: Any,
) -> Task:
    """The task in an `.npz`, `.csv` or `.parquet` file.

    An `.npz` holds arrays `x` (n, ...), `public` (n,), one (n,) per private attribute, and
    optionally `user` and `recording`; names in `private` choose among them (none: all). A table
    needs `public`, the name of a column, and takes the options of `from_columns`.
    Nothing in a file is executed: arrays of Python objects are refused. Raises `DataError`, and
    `ConfigError` for options that this kind of file doesn't take.
    """
    private = as_names(private)
    path = Path(path)
    if not path.is_file():
        raise DataError(f"Expected a file at path={str(path)!r}, found none. Check the path.")
    suffix = path.suffix.lower()
    if suffix == ".npz":
        if missing != "error":
            raise DataError("missing='drop' is for tables. Drop the rows before saving an .npz.")
        arrays = _read_npz(path)
        _check_options(options, _ARRAY_OPTIONS, path.name)
        return _from_npz(arrays, path, public=public, private=private, unit=unit, **options)
    if suffix not in SUFFIXES:
        raise DataError(f"Expected a file ending in {SUFFIXES}, got path={str(path)!r}.")
    if public is None:
        raise DataError(f"Expected public=, the column to predict, for the table {path.name!r}.")
    _check_options(options, _TABLE_OPTIONS, path.name)
    columns = _read_csv(path) if suffix == ".csv" else _read_parquet(path)
    return from_columns(
        columns,
        public=public,
        private=private,
        unit=unit,
        missing=missing,
        name=path.stem,
        source=path.name,
        **options,
    )


def from_arrays(
    x: Any,
    public: Any,
    private: Mapping[str, Any] | Sequence[str] | None = None,
    *,
    users: Any = None,
    recordings: Any = None,
    unit: Unit = "record",
    kind: Kind | str | None = None,
    bins: Mapping[str, int] | None = None,
    name: str = "arrays",
    source: str = "",
    **options: Any,
) -> Task:
    """The task in Python objects: lists, numpy arrays, tensors, or a data frame.

    `x` (n, ...) numbers; `public` (n,) and each private attribute (n,) any labels (text becomes
    classes, its names are kept). If `x` is a data frame, or a mapping of columns, `public`, the
    items of `private`, `users` and `recordings` are names of its columns, and `options` are those
    of `from_columns`. Raises `DataError`.
    """
    headings = _headings(x)
    if headings is not None:
        if not isinstance(public, str):
            raise DataError(
                "Expected public as the name of a column, because 'x' is a table, got "
                f"{type(public).__name__}."
            )
        _check_options(options, _TABLE_OPTIONS - {"user", "recording"}, "x")
        return from_columns(
            {str(heading): _array(x[heading]) for heading in headings},
            public=public,
            private=as_names(private or ()),
            user=users,
            recording=recordings,
            unit=unit,
            kind=kind,
            bins=bins,
            name=name,
            source=source,
            **options,
        )
    if options:
        raise DataError(f"Options {sorted(options)} are for tables, and 'x' is an array.")
    if private is not None and not isinstance(private, Mapping):
        raise DataError("Expected private={'attribute': values} beside an array 'x'.")
    stray = sorted(set(bins or {}) - set(private or {}))
    if stray:
        raise DataError(f"Expected bins for attributes in {list(private or {})}, got bins={stray}.")
    labels, class_names, kind = encode_public(_array(public), "public", kind)
    attributes = {
        field: encode_private(_array(values), field, (bins or {}).get(field))
        for field, values in (private or {}).items()
    }
    return Task(
        name=name,
        x=_numbers(_array(x)),
        public=labels,
        private={field: codes for field, (codes, _) in attributes.items()},
        users=encode_units(None if users is None else _array(users), "users"),
        recordings=encode_units(None if recordings is None else _array(recordings), "recordings"),
        kind=kind,
        unit=unit,
        source=source,
        class_names=class_names,
        attribute_names={field: names for field, (_, names) in attributes.items()},
    )


def _check_options(options: Mapping[str, Any], known: frozenset[str], name: str) -> None:
    unknown = sorted(set(options) - known)
    if unknown:
        raise ConfigError(f"{name!r} takes the options {sorted(known)}, got {unknown}.")


def _from_npz(
    arrays: Mapping[str, NDArray[Any]],
    path: Path,
    *,
    public: str | None,
    private: Sequence[str],
    unit: Unit,
    kind: Kind | str | None = None,
    bins: Mapping[str, int] | None = None,
) -> Task:
    public = public or "public"
    special = {"x", public, "user", "recording"}
    for wanted in ("x", public, *private):
        if wanted not in arrays:
            raise DataError(
                f"Expected an array {wanted!r} in {path.name!r}, found {sorted(arrays)}. "
                "Save them with numpy.savez(path, x=..., public=..., <attribute>=...)."
            )
    chosen = tuple(private) or tuple(sorted(set(arrays) - special))
    made = from_arrays(
        arrays["x"],
        arrays[public],
        {field: arrays[field] for field in chosen},
        users=arrays.get("user"),
        recordings=arrays.get("recording"),
        unit=unit,
        kind=kind,
        bins=bins,
        name=path.stem,
        source=path.name,
    )
    return made if public == "public" else replace(made, label=public)


def _read_npz(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {field: stored[field] for field in stored.files}
    except (ValueError, TypeError, zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise DataError(
            f"{path.name!r} isn't an .npz of plain arrays ({error}). Arrays of Python objects are "
            "refused because loading them would execute code: save numbers or text."
        ) from error


def _read_csv(path: Path) -> dict[str, NDArray[Any]]:
    arrow = _arrow()
    from pyarrow import csv

    options = csv.ConvertOptions(null_values=list(_NULLS), strings_can_be_null=True)
    try:
        table = csv.read_csv(path, convert_options=options)
    except (arrow.ArrowInvalid, arrow.ArrowKeyError) as error:
        raise DataError(f"{path.name!r} isn't a table with one header line: {error}") from error
    return _table_columns(table)


def _read_parquet(path: Path) -> dict[str, NDArray[Any]]:
    arrow = _arrow()
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
    except (arrow.ArrowInvalid, OSError) as error:
        raise DataError(f"{path.name!r} isn't a Parquet table: {error}") from error
    return _table_columns(table)


def _table_columns(table: Any) -> dict[str, NDArray[Any]]:
    arrow = _arrow()
    twice = {label for label in table.column_names if table.column_names.count(label) > 1}
    if twice:
        raise DataError(f"Expected distinct column names, got {sorted(twice)} more than once.")
    columns = {}
    for label in table.column_names:
        column = table[label]
        if arrow.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if arrow.types.is_decimal(column.type):
            column = column.cast(arrow.float64())
        columns[label] = column.to_numpy()
    return columns


def _arrow() -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise MissingExtraError("pyarrow", "data") from error
    return pyarrow


def _headings(x: Any) -> list[Any] | None:
    """The column names if `x` is a mapping, an Arrow table or a data frame, else None."""
    if isinstance(x, Mapping):
        return list(x)
    for attribute in ("column_names", "columns"):
        if hasattr(x, attribute):
            return list(getattr(x, attribute))
    return None


def _array(values: Any) -> NDArray[Any]:
    """Whatever holds an array, as numpy: tensors and series by what they can do, not by type."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
    if hasattr(values, "to_numpy"):
        values = values.to_numpy()
    try:
        return np.asarray(values)
    except ValueError as error:
        raise DataError(f"Expected rows of equal length, got ragged ones ({error}).") from error


def _numbers(x: NDArray[Any]) -> NDArray[np.float32]:
    if x.dtype.kind not in "iufb":
        raise DataError(
            f"Expected numbers in 'x', got dtype={x.dtype}. For text columns give a data frame, "
            "a CSV or a Parquet file: they are turned into one-hot columns."
        )
    with np.errstate(over="ignore"):  # what is too big becomes infinity, and is refused as such
        return np.ascontiguousarray(x, dtype=np.float32)
