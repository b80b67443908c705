"""Columns: a table's named columns as a task."""

from __future__ import annotations

import difflib
import numbers
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from reticent.data.labels import (
    MOST_WHOLE_FLOAT_CLASSES,
    bands,
    encode_labels,
    find_missing,
    refuse_missing,
)
from reticent.data.task import Kind, Task
from reticent.errors import ConfigError, DataError

Columns = Mapping[str, NDArray[Any]]
MOST_CATEGORIES = 100


def from_columns(
    columns: Columns,
    *,
    public: str,
    private: Sequence[str] = (),
    user: str | None = None,
    recording: str | None = None,
    unit: Literal["record", "user"] = "record",
    kind: Kind | str | None = None,
    keep_private: bool = False,
    drop: Sequence[str] = (),
    bins: Mapping[str, int] | None = None,
    missing: Literal["error", "drop"] = "error",
    name: str = "table",
    source: str = "",
) -> Task:
    """The task that predicts column `public` from the other columns.

    Numeric columns enter `x` as they are (models standardise), text columns one-hot in sorted
    order of their values. `public`, `private`, `user`, `recording` and `drop` don't enter, except
    that `keep_private=True` keeps the private ones. `user` and `recording` default to columns of
    these names. `bins` cuts real-valued private columns into quantile bands. `kind` defaults to
    classification for text, booleans, integers and whole floats of at most 20 values, else to
    regression; an anomaly column must hold 0 and 1, where 1 is the anomaly.
    Raises `DataError` for missing columns or values, text with more than 100 values, and whatever
    `Task` refuses.
    """
    private, drop = as_names(private), as_names(drop)
    given = (public, *private, *(column for column in (user, recording) if column is not None))
    for wanted in (*given, *drop):
        _expect_column(columns, wanted)
    if public in private:
        raise DataError(f"Column {public!r} can't be both public and private. Choose one.")
    if set(given) & set(drop):
        raise DataError(f"drop={list(drop)} leaves out a label. Drop features only.")
    stray = sorted(set(bins or {}) - set(private))
    if stray:
        raise DataError(f"Expected bins for private columns {list(private)}, got bins={stray}.")
    kept = {label: _plain(values, label) for label, values in columns.items() if label not in drop}
    _check_lengths(kept)
    user = _default(kept, user, "user")
    recording = _default(kept, recording, "recording")
    kept = dict(_without_missing(kept, missing))
    hidden = {public, user, recording} | (set() if keep_private else set(private))
    features = {label: values for label, values in kept.items() if label not in hidden}
    if not features:
        raise DataError("Expected at least one feature column beside the labels, got none.")
    labels, class_names, kind = encode_public(kept[public], public, kind)
    attributes = {
        label: encode_private(kept[label], label, (bins or {}).get(label)) for label in private
    }
    return Task(
        name=name,
        x=np.hstack([one_column(values, label) for label, values in features.items()]),
        public=labels,
        private={label: codes for label, (codes, _) in attributes.items()},
        users=encode_units(None if user is None else kept[user], str(user)),
        recordings=encode_units(None if recording is None else kept[recording], str(recording)),
        kind=kind,
        unit=unit,
        source=source,
        label=public,
        class_names=class_names,
        attribute_names={label: names for label, (_, names) in attributes.items()},
    )


def encode_public(
    values: NDArray[Any], field: str, kind: Kind | str | None
) -> tuple[NDArray[Any], tuple[str, ...], Kind]:
    """The public label (n,), its class names (none for regression), and its kind."""
    refuse_missing(values, field)
    chosen = _guess_kind(values) if kind is None else _kind(kind)
    if chosen is Kind.REGRESSION:
        if values.dtype.kind not in "iufb":
            raise DataError(f"Expected numbers in {field!r} for regression, got {values.dtype}.")
        return values.astype(np.float32), (), chosen
    codes, names = encode_labels(values, field)
    if chosen is Kind.ANOMALY and names not in (("0", "1"), ("False", "True")):
        raise DataError(
            f"Expected 0 (normal) and 1 (anomaly) in {field!r}, got the values {names[:5]}."
        )
    if kind is None and len(names) > MOST_CATEGORIES:
        raise DataError(
            f"Column {field!r} has {len(names)} distinct values. Give kind='regression' for a "
            "quantity, kind='classification' if they are classes indeed, or group them."
        )
    return codes, names, chosen


def encode_private(
    values: NDArray[Any], field: str, bin_count: int | None = None
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """A private attribute (n,) and the names of its classes; `bin_count` cuts it into bands."""
    if bin_count is None:
        return encode_labels(values, field)
    refuse_missing(values, field)
    if values.dtype.kind not in "iuf":
        raise DataError(f"Expected numbers in {field!r} to cut into bands, got {values.dtype}.")
    codes = bands(values, bin_count)
    spans = [values[codes == code] for code in range(int(codes.max()) + 1)]
    return codes, tuple(f"{span.min():g} to {span.max():g}" for span in spans)


def encode_units(values: NDArray[Any] | None, field: str) -> NDArray[np.int64] | None:
    """Users or recordings (n,) as integers, or None where there are none."""
    return None if values is None else encode_labels(values, field, identifiers=True)[0]


def as_names(names: str | Iterable[str]) -> tuple[str, ...]:
    """Names as a tuple: one name alone is a name, not a sequence of letters."""
    return (names,) if isinstance(names, str) else tuple(names)


def one_column(values: NDArray[Any], label: str) -> NDArray[np.float32]:
    """One feature column as (n, 1) numbers or (n, categories) one-hot."""
    if values.dtype.kind in "iufb":
        with np.errstate(over="ignore"):  # what is too big becomes infinity, and is refused
            return values.astype(np.float32)[:, None]
    if values.dtype.kind in "mM":
        raise DataError(
            f"Column {label!r} holds dates or times. Turn it into numbers (for example days "
            f"before today), or leave it out with drop=[{label!r}]."
        )
    codes, names = encode_labels(values, label)
    if len(names) > MOST_CATEGORIES:
        raise DataError(
            f"Column {label!r} has {len(names)} distinct texts, more than {MOST_CATEGORIES}: "
            f"group them, or leave the column out with drop=[{label!r}]."
        )
    return np.eye(len(names), dtype=np.float32)[codes]


def _plain(values: Any, label: str) -> NDArray[Any]:
    """A column (n,); Python numbers among missing values become floats with NaN."""
    array = np.asarray(values)
    nested = (
        array.dtype.kind == "O"
        and array.ndim == 1
        and any(isinstance(value, (list, tuple, dict, np.ndarray)) for value in array)
    )
    if array.ndim != 1 or nested:
        raise DataError(
            f"Expected one value a row in column {label!r}, got lists. Spread them over columns, "
            "or give arrays instead of a table."
        )
    if array.dtype.kind != "O":
        return array
    gone = find_missing(array)
    if gone.all() or not all(_is_number(value) for value in array[~gone]):
        return array
    made = np.full(len(array), np.nan)
    made[~gone] = array[~gone].astype(np.float64)
    return made


def _is_number(value: Any) -> bool:
    return isinstance(value, (numbers.Real, Decimal)) and not isinstance(value, (bool, np.bool_))


def _check_lengths(columns: Columns) -> None:
    lengths = {label: len(values) for label, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(f"Expected columns of equal length, got lengths={lengths}.")


def _without_missing(columns: Columns, missing: Literal["error", "drop"]) -> Columns:
    if missing not in ("error", "drop"):
        raise ConfigError(f"Expected missing 'error' or 'drop', got missing={missing!r}.")
    if missing == "error":
        for label, values in columns.items():
            refuse_missing(values, label)
        return columns
    gone = np.logical_or.reduce([find_missing(values) for values in columns.values()])
    if len(gone) and gone.all():
        raise DataError("Every row has a missing value. Leave out the emptiest columns with drop.")
    return {label: values[~gone] for label, values in columns.items()}


def _guess_kind(values: NDArray[Any]) -> Kind:
    if values.dtype.kind != "f":
        return Kind.CLASSIFICATION
    distinct = np.unique(values)
    whole = bool((distinct == np.round(distinct)).all())
    few = len(distinct) <= MOST_WHOLE_FLOAT_CLASSES
    return Kind.CLASSIFICATION if whole and few else Kind.REGRESSION


def _kind(kind: Kind | str) -> Kind:
    if kind not in tuple(Kind):
        raise ConfigError(f"Expected kind in {[str(k) for k in Kind]}, got kind={kind!r}.")
    return Kind(kind)


def _default(columns: Columns, given: str | None, usual: str) -> str | None:
    return usual if given is None and usual in columns else given


def _expect_column(columns: Columns, wanted: str) -> None:
    if wanted in columns:
        return
    near = difflib.get_close_matches(wanted, columns, n=3)
    hint = f"Did you mean {' or '.join(map(repr, near))}?" if near else f"Columns: {list(columns)}."
    raise DataError(f"Expected a column named {wanted!r}, found none. {hint}")
