"""Training records that a model file holds as they are: support vectors, neighbours, leaves.

Every array inside the model that has a record's width is read, under whatever name; nothing is
run. What is found is said to be what it is: a row, a row behind an inverted scaler, a tree's leaf
that holds one record between its thresholds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from reticent.attacks.spec import Access, AttackSpec
from reticent.attacks.target import WeightsTarget
from reticent.guarantee import Pillar

_DEPTH = 6
_WHOLE_LEAF = 1
_ROW_NAMES = (
    "support_vectors_",
    "_fit_X",
    "X_train_",
    "X_fit_",
    "X_",
    "X_train",
    "_X",
    "data",
)


class Kind(StrEnum):
    """What a find is."""

    ROWS = "rows"
    SCALED_ROWS = "rows behind an invertible transform"
    HIDDEN_ROWS = "rows behind a transform without inverse"
    TABLE = "a table of a record's width"
    LEAVES = "leaves of one record"
    BINS = "bin edges"


@dataclass(frozen=True, kw_only=True, eq=False)
class Stored:
    """One find: `where` in the model, `rows` (k, d) claimed to be records in the input's space.

    A table of a record's width may be coefficients, centroids or records: only a comparison tells.
    For leaves, `low` and `high` (k, d) enclose each record (infinite where no threshold does) and
    `rows` are empty: a threshold is a midpoint of two records, no record. `rows` are empty too for
    bin edges and for rows behind a transform without inverse; `count` says how many there are.
    """

    where: str
    kind: Kind
    rows: NDArray[Any]
    low: NDArray[np.float64] | None = None
    high: NDArray[np.float64] | None = None
    count: int = 0

    @property
    def exact(self) -> bool:
        """Whether the rows are claimed bit by bit, or up to rounding of an inverse transform."""
        return self.kind is not Kind.SCALED_ROWS


class StoredRecords:
    """Reads the training records that a model stores, without a query.

    Support vectors, nearest neighbours, Gaussian processes, kernel ridge, prototypes, networks
    with memory; wrapped in pipelines, ensembles and searches.
    """

    spec = AttackSpec(
        name="stored records",
        pillar=Pillar.TRAINING_DATA,
        goal="training records that the model file holds",
        access=Access.WEIGHTS,
        auxiliary="none",
        reference="kernel methods and instance-based models hold their records by construction",
        queries=0,
    )

    def fit(self, target: WeightsTarget, auxiliary: None = None, *, seed: int = 0) -> FittedScan:
        """Scans the model once; nothing is random."""
        size = int(np.prod(target.shape))
        return FittedScan(finds=scan(target.model, size), shape=target.shape)


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedScan:
    """What the scan found."""

    finds: tuple[Stored, ...]
    shape: tuple[int, ...]

    def score(self, target: WeightsTarget, candidates: NDArray[Any]) -> NDArray[np.bool_]:
        """Whether each candidate record (n, ...) stands in the model, (n,)."""
        flat = candidates.reshape(len(candidates), -1)
        found = np.zeros(len(flat), dtype=bool)
        for find in self.finds:
            if len(find.rows):
                found |= among(flat, find.rows, exact=find.exact)
        return found


def scan(model: Any, size: int) -> tuple[Stored, ...]:
    """Every find in the model for records of `size` values, in order of discovery."""
    if isinstance(model, nn.Module):
        return tuple(_tensors(model, size))
    return tuple(_walk(model, size, "model", _Seen()))


def among(records: NDArray[Any], rows: NDArray[Any], *, exact: bool) -> NDArray[np.bool_]:
    """Which records (n, d) equal one of the rows (k, d), in float32; else nearly.

    float32 is what records have; a model that keeps float64 copies of them loses nothing. Nearly
    is a root mean square of 1e-3, each column measured by its largest value.
    """
    mine, theirs = records.astype(np.float32) + 0.0, rows.astype(np.float32) + 0.0
    if exact:
        # Adding 0 made every zero positive, so equal values have equal bytes.
        known = {row.tobytes() for row in theirs}
        return np.array([row.tobytes() in known for row in mine], dtype=bool)
    spread = np.abs(mine).max(axis=0)
    spread = np.maximum(spread, 1e-3 * max(float(spread.max()), 1e-12))
    left, right = mine / spread, theirs / spread
    found = np.zeros(len(mine), dtype=bool)
    for start in range(0, len(left), 256):
        part = slice(start, start + 256)
        squared = (left[part] ** 2).sum(axis=1)[:, None] + (right**2).sum(axis=1)[None]
        squared = squared - 2 * left[part] @ right.T
        nearest = squared.argmin(axis=1)
        found[part] = ((left[part] - right[nearest]) ** 2).mean(axis=1) < 1e-6
    return found


@dataclass
class _Seen:
    """Objects met already: a model may refer to itself."""

    ids: set[int] = field(default_factory=set)

    def first(self, value: object) -> bool:
        known = id(value) in self.ids
        self.ids.add(id(value))
        return not known


def _walk(model: Any, size: int, where: str, seen: _Seen, depth: int = 0) -> Iterator[Stored]:
    if depth > _DEPTH or not seen.first(model):
        return
    steps = getattr(model, "steps", None)
    if isinstance(steps, list) and steps:
        yield from _pipeline(steps, size, where, seen, depth)
        return
    if hasattr(model, "tree_"):
        yield from _leaves(model.tree_, size, where)
        return
    if type(model).__name__ == "_BinMapper":
        edges = sum(len(part) for part in getattr(model, "bin_thresholds_", ()))
        yield Stored(where=where, kind=Kind.BINS, rows=np.empty((0, size)), count=edges)
        return
    for name, value in _parts(model):
        path = f"{where}.{name}"
        rows = _rows(value, size)
        if rows is not None:
            if seen.first(value):
                kind = Kind.ROWS if name in _ROW_NAMES else Kind.TABLE
                yield Stored(where=path, kind=kind, rows=rows, count=len(rows))
        elif _inside(value):
            yield from _walk(value, size, path, seen, depth + 1)


def _parts(model: Any) -> Iterator[tuple[str, Any]]:
    """The named parts of an object, a mapping or a sequence; row attributes first."""
    if isinstance(model, Mapping):
        yield from ((str(name), value) for name, value in model.items())
    elif isinstance(model, list | tuple | np.ndarray):
        yield from ((str(place), value) for place, value in enumerate(model))
    else:
        # A neighbour tree keeps its records in C; this is its public copy of them.
        if hasattr(model, "get_arrays"):
            yield "data", np.asarray(model.get_arrays()[0])
        held = dict(getattr(model, "__dict__", {}))
        for name in sorted(held, key=lambda name: (name not in _ROW_NAMES, name)):
            yield name, held[name]


def _inside(value: Any) -> bool:
    """Whether something may be stored inside."""
    if isinstance(value, np.ndarray):
        return bool(value.dtype == object)
    if isinstance(value, Mapping | list | tuple):
        return len(value) > 0
    module = type(value).__module__
    named = hasattr(value, "__dict__") and not callable(value)
    return bool(named or module.startswith("sklearn."))


def _rows(value: Any, size: int) -> NDArray[Any] | None:
    """The value as rows (k, size) where it is a numeric table of that width."""
    if hasattr(value, "toarray") and getattr(value, "ndim", 0) == 2:
        if value.shape[1] != size or value.shape[0] * size > 50_000_000:
            return None
        return np.asarray(value.toarray())
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiu" or value.ndim < 2:
        return None
    if value.ndim > 2 and int(np.prod(value.shape[1:])) != size:
        return None
    if value.shape[-1] != size and value.ndim == 2:
        return None
    return value.reshape(len(value), -1) if len(value) else None


def _pipeline(steps: list[Any], size: int, where: str, seen: _Seen, depth: int) -> Iterator[Stored]:
    """Finds of the last step, taken back through the transforms that can be inverted."""
    transforms = [step for _name, step in steps[:-1] if hasattr(step, "transform")]
    last = steps[-1][1]
    inverses = [getattr(step, "inverse_transform", None) for step in reversed(transforms)]
    width = getattr(last, "n_features_in_", size)
    for find in _walk(last, width, f"{where}.{steps[-1][0]}", seen, depth + 1):
        if not transforms or not len(find.rows):
            yield find
        elif None in inverses:
            kind, none = Kind.HIDDEN_ROWS, np.empty((0, size))
            yield Stored(where=find.where, kind=kind, rows=none, count=len(find.rows))
        else:
            rows: Any = find.rows
            for inverse in inverses:
                assert inverse is not None
                rows = inverse(rows)
            kind = Kind.SCALED_ROWS if find.kind is Kind.ROWS else Kind.TABLE
            yield Stored(where=find.where, kind=kind, rows=np.asarray(rows), count=len(rows))
    for name, step in steps[:-1]:
        yield from _walk(step, size, f"{where}.{name}", seen, depth + 1)


def _leaves(tree: Any, size: int, where: str) -> Iterator[Stored]:
    """The boxes of leaves that hold one training record."""
    low, high = [], []
    stack = [(0, np.full(size, -np.inf), np.full(size, np.inf))]
    while stack:
        node, below, above = stack.pop()
        if tree.children_left[node] < 0:
            if tree.n_node_samples[node] == _WHOLE_LEAF:
                low.append(below)
                high.append(above)
            continue
        axis, cut = tree.feature[node], tree.threshold[node]
        left, right = above.copy(), below.copy()
        left[axis], right[axis] = min(above[axis], cut), max(below[axis], cut)
        stack += [
            (tree.children_left[node], below, left),
            (tree.children_right[node], right, above),
        ]
    if low:
        yield Stored(
            where=where,
            kind=Kind.LEAVES,
            rows=np.empty((0, size)),
            low=np.stack(low),
            high=np.stack(high),
            count=len(low),
        )


def _tensors(module: nn.Module, size: int) -> Iterator[Stored]:
    """Parameters and buffers that are tables of a record's width."""
    for name, value in module.state_dict().items():
        array = value.detach().numpy()
        if array.ndim < 2 or array.dtype.kind not in "fiu":
            continue
        if int(np.prod(array.shape[1:])) == size:
            rows = array.reshape(len(array), -1)
            yield Stored(where=name, kind=Kind.TABLE, rows=rows, count=len(rows))
