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
    n = len(task.x)
    if n == 0:
        raise DataError("Expected at least one record in field 'x', got 0.")
    if task.x.dtype != np.float32:
        raise DataError(f"Expected field 'x' as float32, got dtype={task.x.dtype}.")
    if not np.isfinite(task.x).all():
        row = int(np.flatnonzero(~np.isfinite(task.x.reshape(n, -1)).all(axis=1))[0])
        raise DataError(
            f"Field 'x' holds NaN or infinity, first in row={row}. Drop or impute such rows."
        )
    columns: dict[str, NDArray[Any]] = {"public": task.public, **task.private}
    columns |= {
        name: values
        for name, values in (("users", task.users), ("recordings", task.recordings))
        if values is not None
    }
    for name, values in columns.items():
        if values.shape != (n,):
            raise DataError(
                f"Expected field {name!r} of shape ({n},) to match 'x', got shape={values.shape}."
            )
    labels = dict(task.private)
    if task.kind is Kind.REGRESSION:
        if not np.isfinite(np.asarray(task.public, dtype=np.float64)).all():
            raise DataError("Field 'public' holds NaN or infinity. Drop those rows.")
        if np.ptp(task.public) == 0:
            raise DataError("Field 'public' is constant: there is nothing to predict.")
    else:
        labels = {"public": task.public, **labels}
    for name, values in labels.items():
        if not np.issubdtype(values.dtype, np.integer):
            raise DataError(
                f"Expected field {name!r} as integer classes, got dtype={values.dtype}."
            )
        if values.min() < 0:
            raise DataError(f"Expected classes 0..C-1 in {name!r}, got {int(values.min())}.")
        if len(np.unique(values)) < 2:
            raise DataError(
                f"Field {name!r} has one class only ({int(values[0])}). Two or more are needed."
            )
    if task.kind is not Kind.REGRESSION:
        missing = sorted(set(range(task.classes)) - set(np.unique(task.public).tolist()))
        if missing:
            raise DataError(
                f"Expected every class 0..{task.classes - 1} in 'public'; none of {missing[:5]}."
            )
    if task.unit == "user" and task.users is None:
        raise DataError("unit='user' needs the field 'users'. Give it, or set unit='record'.")
