"""A task: records, the public label, the private attributes, and the unit of privacy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from reticent.errors import DataError


class Kind(StrEnum):
    """What the public label is."""

    CLASSIFICATION = "classification"
    REGRESSION = "regression"
    ANOMALY = "anomaly"


@dataclass(frozen=True, kw_only=True)
class Task:
    """Records `x`, the label the service is for, and what the service must not learn.

    Shapes: `x` (n, ...) float32; `public` (n,) integer classes 0..C-1, 0/1 for anomaly (1 is the
    anomaly), float32 for regression; each private attribute (n,) integer classes; `users` (n,)
    integers or None; `recordings` (n,) integers or None: windows of one recording overlap or
    follow each other, so a recording never straddles two parts. `label` is what the public label
    is called.
    """

    name: str
    x: NDArray[np.float32]
    public: NDArray[Any]
    private: Mapping[str, NDArray[np.int64]]
    users: NDArray[np.int64] | None = None
    recordings: NDArray[np.int64] | None = None
    kind: Kind = Kind.CLASSIFICATION
    unit: Literal["record", "user"] = "record"
    synthetic: bool = False
    source: str = ""
    label: str = "public label"
    class_names: tuple[str, ...] = ()
    attribute_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check(self)

    def __len__(self) -> int:
        return len(self.x)

    @property
    def classes(self) -> int:
        """How many public classes there are (2 for anomaly, 0 for regression)."""
        if self.kind is Kind.REGRESSION:
            return 0
        return 2 if self.kind is Kind.ANOMALY else int(self.public.max()) + 1

    @property
    def title(self) -> str:
        """The name as outputs show it: generated data say so every time."""
        return f"{self.name} (SYNTHETIC)" if self.synthetic else self.name

    def take(self, rows: NDArray[np.int64]) -> Records:
        """The rows of one part, in the given order."""
        return Records(
            x=self.x[rows],
            public=self.public[rows],
            private={name: values[rows] for name, values in self.private.items()},
            users=None if self.users is None else self.users[rows],
        )


@dataclass(frozen=True, kw_only=True)
class Records:
    """Some rows of a task: what a trainer or an attacker is given."""

    x: NDArray[np.float32]
    public: NDArray[Any]
    private: Mapping[str, NDArray[np.int64]]
    users: NDArray[np.int64] | None

    def __len__(self) -> int:
        return len(self.x)


def _check(task: Task) -> None:
    _check_choices(task)
    _check_records(task)
    n = len(task.x)
    columns: dict[str, NDArray[Any]] = {"public": task.public, **task.private}
    units = {"users": task.users, "recordings": task.recordings}
    columns |= {name: values for name, values in units.items() if values is not None}
    for name, values in columns.items():
        if not isinstance(values, np.ndarray):
            raise DataError(f"Expected field {name!r} as an array, got {type(values).__name__}.")
        if values.shape != (n,):
            raise DataError(
                f"Expected field {name!r} of shape ({n},) to match 'x', got shape={values.shape}."
            )
    if task.kind is Kind.REGRESSION:
        _check_quantity(columns.pop("public"))
    for name, values in columns.items():
        if not np.issubdtype(values.dtype, np.integer):
            raise DataError(
                f"Expected field {name!r} as integer classes, got dtype={values.dtype}."
            )
        if name not in units:
            _check_classes(name, values)
    if task.kind is not Kind.REGRESSION:
        _check_public(task)
    _check_units(task)


def _check_choices(task: Task) -> None:
    if not isinstance(task.kind, Kind):
        raise DataError(f"Expected kind as one of {list(Kind)}, got kind={task.kind!r}.")
    if task.unit not in ("record", "user"):
        raise DataError(f"Expected unit 'record' or 'user', got unit={task.unit!r}.")


def _check_records(task: Task) -> None:
    if not isinstance(task.x, np.ndarray) or task.x.dtype != np.float32:
        came = getattr(task.x, "dtype", type(task.x).__name__)
        raise DataError(f"Expected field 'x' as a float32 array, got dtype={came}.")
    if task.x.ndim == 0 or len(task.x) == 0:
        raise DataError(f"Expected at least one record in field 'x', got shape={task.x.shape}.")
    if task.x.ndim < 2 or task.x.size == 0:
        raise DataError(
            "Expected field 'x' of shape (records, features...), got "
            f"shape={task.x.shape}. A single feature has shape ({len(task.x)}, 1)."
        )
    finite = np.isfinite(task.x).reshape(len(task.x), -1).all(axis=1)
    if not finite.all():
        raise DataError(
            "Field 'x' holds NaN or infinity, first in "
            f"row={int(np.argmin(finite))}. Drop or impute such rows."
        )


def _check_quantity(values: NDArray[Any]) -> None:
    if values.dtype.kind not in "iuf":
        raise DataError(f"Expected numbers in 'public', got dtype={values.dtype}.")
    if not np.isfinite(values).all():
        raise DataError("Field 'public' holds NaN or infinity. Drop those rows.")
    if values.min() == values.max():
        raise DataError("Field 'public' is constant: there is nothing to predict.")


def _check_classes(name: str, values: NDArray[Any]) -> None:
    if values.min() < 0:
        raise DataError(f"Expected classes 0..C-1 in {name!r}, got {int(values.min())}.")
    if values.min() == values.max():
        raise DataError(
            f"Field {name!r} has one class only ({int(values[0])}). Two or more are needed."
        )


def _check_public(task: Task) -> None:
    present = set(np.unique(task.public).tolist())
    if task.kind is Kind.ANOMALY and max(present) > 1:
        raise DataError(
            f"Expected 0 (normal) and 1 (anomaly) in 'public', got the class {max(present)}."
        )
    missing = next((label for label in range(task.classes) if label not in present), None)
    if missing is not None:
        raise DataError(
            f"Expected every class 0..{task.classes - 1} in 'public', got none of class {missing}."
        )
    if task.class_names and len(task.class_names) != task.classes:
        raise DataError(
            f"Expected {task.classes} class names, one per class, got {task.class_names}."
        )


def _check_units(task: Task) -> None:
    if task.unit == "user" and task.users is None:
        raise DataError("unit='user' needs the field 'users'. Give it, or set unit='record'.")
    if task.users is None or task.recordings is None:
        return
    _, first, recording = np.unique(task.recordings, return_index=True, return_inverse=True)
    strays = np.flatnonzero(task.users != task.users[first][recording])
    if len(strays):
        raise DataError(
            f"Recording {int(task.recordings[strays[0]])} belongs to two users. Number recordings "
            "across users, not anew for each one, or leave them out."
        )
