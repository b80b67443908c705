"""Labels: any values a user brings, as integer classes 0..C-1 with their names."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reticent.errors import DataError

MOST_WHOLE_FLOAT_CLASSES = 20
# Missing values as text: numpy writes NaN out when it stands among words.
_MISSING = ("", "nan", "NaN", "NaT", "<NA>")


def encode_labels(
    values: ArrayLike, field: str, *, identifiers: bool = False
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Classes 0..C-1 (n,) in sorted order of the values, and the values as text.

    Integers, booleans and text are classes as they are; floats only when all are whole numbers
    with at most 20 distinct values, or as many as there are if they are `identifiers`, which
    tables with gaps hold as floats. Raises `DataError` for missing values and for measurements.
    """
    array = np.asarray(values)
    refuse_missing(array, field)
    if array.dtype.kind == "f":
        distinct = np.unique(array)
        many = len(distinct) > MOST_WHOLE_FLOAT_CLASSES and not identifiers
        if many or not np.isfinite(distinct).all() or (distinct != np.round(distinct)).any():
            raise DataError(
                f"Expected classes in {field!r}, got {len(distinct)} distinct real numbers. "
                f"Cut them into bands with bins={{{field!r}: 3}}, or encode them yourself."
            )
        array = array.astype(np.int64)
    elif array.dtype.kind == "S":
        array = np.char.decode(array, "utf-8", "replace")
    elif array.dtype.kind not in "iubU":
        array = array.astype(str)
    names, codes = np.unique(array, return_inverse=True)
    return codes.reshape(array.shape).astype(np.int64), tuple(str(name) for name in names)


def bands(values: ArrayLike, count: int = 3) -> NDArray[np.int64]:
    """Quantile bands 0..count-1 (n,) of real values, low to high (terciles by default).

    Equal values share a band; bands that ties leave empty are closed up, so that the result
    always is 0..C-1 with C <= count.
    """
    array = np.asarray(values, dtype=np.float64)
    edges = np.quantile(array, np.arange(1, count) / count)
    raw = np.searchsorted(edges, array, side="left")
    return np.unique(raw, return_inverse=True)[1].astype(np.int64)


def find_missing(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Which of `values` (n,) are missing: NaN, None, NaT, or text that is empty or says so."""
    if values.dtype.kind == "f":
        return np.asarray(np.isnan(values))
    if values.dtype.kind in "mM":
        return np.asarray(np.isnat(values))
    if values.dtype.kind in "US":
        text = np.char.decode(values, "utf-8", "replace") if values.dtype.kind == "S" else values
        return np.isin(text, _MISSING)
    if values.dtype.kind == "O":
        return np.array([_is_missing(value) for value in values], dtype=np.bool_)
    return np.zeros(len(values), dtype=np.bool_)


def _is_missing(value: Any) -> bool:
    # pandas' own missing value answers neither == nor bool(); its text is all it shares.
    return value is None or str(value) in _MISSING


def refuse_missing(values: NDArray[Any], field: str) -> None:
    """Raise `DataError` if a value of `field` is missing."""
    gone = find_missing(values) if values.ndim == 1 else np.zeros(0, dtype=np.bool_)
    if gone.any():
        raise DataError(
            f"Column {field!r} has {int(gone.sum())} missing values, first in "
            f"row={int(np.flatnonzero(gone)[0])}. Fill them in, leave the column out with "
            f"drop=[{field!r}], or leave the rows out with missing='drop'."
        )
