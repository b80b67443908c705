"""Who may see which rows: defender, attacker, and the test that neither trains on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from reticent.data.task import Kind, Task
from reticent.errors import DataError
from reticent.random import seeded

Regime = Literal["known", "unseen"]
PARTS = ("train", "validation", "attacker_train", "attacker_validation", "test")
DEFAULT_SHARES = (0.32, 0.08, 0.32, 0.08, 0.20)


@dataclass(frozen=True, kw_only=True)
class Partition:
    """Disjoint row indices of a task, one array per part.

    `train` and `validation` are the defender's (validation serves tuning, cut selection and
    certificates); `attacker_train` and `attacker_validation` the attacker's; `test` is touched
    once, for what is reported.
    """

    regime: Regime
    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    attacker_train: NDArray[np.int64]
    attacker_validation: NDArray[np.int64]
    test: NDArray[np.int64]

    def parts(self) -> dict[str, NDArray[np.int64]]:
        """The parts by name, in the order of `PARTS`."""
        return {name: getattr(self, name) for name in PARTS}


def partition(
    task: Task,
    *,
    regime: Regime | None = None,
    shares: tuple[float, float, float, float, float] = DEFAULT_SHARES,
    seed: int = 0,
) -> Partition:
    """Split `task` for defender, attacker and test.

    `regime="unseen"`: no user is in two of {defender, attacker, test}; for attributes such as sex.
    `regime="known"`: every user is in all of them, as far as the user's recordings or records go:
    split by recording, or within each class in time order where there is no recording; for
    identity itself. Default: "known", which without users means rows at random.
    Recordings of one class are dealt evenly within their class. Raises `DataError` when a part
    would lack rows, classes, or (unseen) users.
    """
    regime = regime or "known"
    if regime not in ("known", "unseen"):
        raise DataError(f"Expected regime 'known' or 'unseen', got regime={regime!r}.")
    if len(shares) != len(PARTS) or not abs(sum(shares) - 1) <= 1e-9 or min(shares) <= 0:
        raise DataError(f"Expected five positive shares that sum to 1, got shares={shares}.")
    rng = seeded(seed, 1)
    if task.users is None:
        if regime == "unseen":
            raise DataError("regime='unseen' needs user ids: give the field 'users'.")
        assigned = _deal(_units(task), _strata(task), shares, rng)
    elif regime == "unseen":
        assigned = _deal_users(task, shares, rng)
    else:
        assigned = _deal_known(task, shares, rng)
    parts = {
        name: rng.permutation(np.flatnonzero(assigned == index)) for index, name in enumerate(PARTS)
    }
    made = Partition(regime=regime, **parts)
    check_partition(task, made)
    return made


def check_partition(task: Task, made: Partition) -> None:
    """Raise `DataError` unless parts are disjoint, non-empty, and respect users and recordings."""
    parts = made.parts()
    for name, rows in parts.items():
        if len(rows) == 0:
            raise DataError(f"Part {name!r} is empty. Give more records, users or recordings.")
        if rows.min() < 0 or rows.max() >= len(task):
            raise DataError(f"Part {name!r} names rows outside 0..{len(task) - 1}.")
        if len(np.unique(rows)) < len(rows):
            raise DataError(f"Part {name!r} holds a row twice.")
    owner = np.full(len(task), -1)
    for index, (name, rows) in enumerate(parts.items()):
        if (owner[rows] != -1).any():
            raise DataError(f"Part {name!r} shares rows with another part.")
        owner[rows] = index
    if task.recordings is not None:
        _refuse_straddling(task.recordings, owner, "recording")
    if made.regime == "unseen":
        if task.users is None:
            raise DataError("regime='unseen' needs user ids: give the field 'users'.")
        _refuse_straddling(task.users, np.array([0, 0, 1, 1, 2, -1])[owner], "user")
    if task.kind is Kind.REGRESSION:
        return
    for name in ("train", "attacker_train", "test"):
        missing = set(range(task.classes)) - set(np.unique(task.public[parts[name]]).tolist())
        if missing:
            raise DataError(
                f"Part {name!r} has no record of public class {sorted(missing)[0]}. "
                "Give more records, or another seed."
            )


def _units(task: Task) -> NDArray[Any]:
    return np.arange(len(task)) if task.recordings is None else task.recordings


def _strata(task: Task) -> NDArray[np.int64]:
    if task.kind is Kind.REGRESSION:
        return np.zeros(len(task), dtype=np.int64)
    return task.public.astype(np.int64)


def _deal(
    units: NDArray[Any],
    strata: NDArray[np.int64],
    shares: tuple[float, ...],
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Assign whole units to parts in proportion to `shares`, over all and within each stratum.

    Units of several strata are a stratum of their own. Each part's places are spread at equal
    distances over the sequence of all units, stratum after stratum: every part has its share of
    the units within one, so that few units don't leave a small part empty, and its share of each
    stratum nearly so.
    """
    names, first, inverse = np.unique(units, return_index=True, return_inverse=True)
    of_unit = strata[first]
    of_unit[inverse[strata != of_unit[inverse]]] = -1
    order = np.lexsort((rng.permutation(len(names)), of_unit))
    parts = _slots(len(names), shares, float(rng.uniform()))
    counts = np.bincount(parts, minlength=len(shares))
    turn = np.arange(len(names)) - (np.cumsum(counts) - counts)[parts]
    places = (turn + rng.uniform(size=len(shares))[parts]) / counts[parts]
    part_of_unit = np.empty(len(names), dtype=np.int64)
    part_of_unit[order] = parts[np.argsort(places)]
    return part_of_unit[inverse]


def _slots(count: int, shares: tuple[float, ...], offset: float) -> NDArray[np.int64]:
    """`count` part indices in order, in proportion to `shares`, each count rounded up or down.

    `offset`, uniform on [0, 1), randomises the rounding: on average every part has its share.
    """
    edges = np.cumsum(shares)[:-1]
    return np.searchsorted(edges, (np.arange(count) + offset) / count, side="right")


def _deal_users(
    task: Task, shares: tuple[float, ...], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Whole users to defender, attacker and test; then recordings or rows within each group.

    Users are dealt evenly within each combination of the private attributes that are constant
    per user, so that no group is short of, say, women.
    """
    assert task.users is not None
    names, first, inverse = np.unique(task.users, return_index=True, return_inverse=True)
    if len(names) < 6:
        raise DataError(f"regime='unseen' needs at least 6 users, got {len(names)}.")
    constant = [
        values
        for values in task.private.values()
        if np.array_equal(values, values[first][inverse]) and len(np.unique(values)) < len(names)
    ]
    strata = np.zeros(len(names), dtype=np.int64)
    for values in constant:
        strata = strata * (int(values.max()) + 1) + values[first]
    order = np.lexsort((rng.permutation(len(names)), strata))
    sides = (shares[0] + shares[1], shares[2] + shares[3], shares[4])
    side_of_user = np.empty(len(names), dtype=np.int64)
    side_of_user[order] = _spread(len(names), sides)
    side = side_of_user[inverse]
    assigned = np.where(side == 2, 4, side * 2)
    for index, (main, extra) in enumerate(((shares[0], shares[1]), (shares[2], shares[3]))):
        rows = np.flatnonzero(side == index)
        within = (main / (main + extra), extra / (main + extra))
        units = np.arange(len(rows)) if task.recordings is None else task.recordings[rows]
        assigned[rows] = index * 2 + _deal(units, _strata(task)[rows], within, rng)
    return assigned


def _spread(count: int, shares: tuple[float, ...]) -> NDArray[np.int64]:
    """Deal `count` places in a row to sides so that every stretch holds its proportion."""
    given = np.zeros(len(shares))
    places = np.empty(count, dtype=np.int64)
    for index in range(count):
        side = int(np.argmax(np.asarray(shares) * (index + 1) - given))
        given[side] += 1
        places[index] = side
    return places


def _deal_known(
    task: Task, shares: tuple[float, ...], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Every user in every part: by recording, or by time (row order) where there is none."""
    assert task.users is not None
    assigned = np.empty(len(task), dtype=np.int64)
    for user in np.unique(task.users):
        rows = np.flatnonzero(task.users == user)
        strata = _strata(task)[rows]
        if task.recordings is None:
            labels = np.unique(strata)
            # Evenly spaced offsets: what one class rounds down, another one rounds up.
            offsets = (rng.uniform() + np.arange(len(labels)) / len(labels)) % 1.0
            for label, offset in zip(labels, offsets, strict=True):
                of_class = rows[strata == label]
                assigned[of_class] = _slots(len(of_class), shares, float(offset))
        else:
            assigned[rows] = _deal(task.recordings[rows], strata, shares, rng)
    return assigned


def _refuse_straddling(units: NDArray[Any], side: NDArray[np.int64], noun: str) -> None:
    seen = side >= 0
    names, first, inverse = np.unique(units[seen], return_index=True, return_inverse=True)
    straddling = np.flatnonzero(side[seen] != side[seen][first][inverse])
    if len(straddling):
        raise DataError(
            f"{noun.capitalize()} {int(names[inverse[straddling[0]]])} is in two parts that must "
            f"be disjoint by {noun}. Assign each {noun} to one part."
        )
