"""Who may see which rows: defender, attacker, and the test that neither trains on."""

from __future__ import annotations

from dataclasses import dataclass, field
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

    `train` and `validation` are the defender's (validation serves tuning and cut selection);
    `attacker_train` and `attacker_validation` the attacker's; `test` is touched once, for what is
    reported. `certify`, empty unless asked for, is the defender's too: rows that chose nothing,
    for certificates that hold on average.
    """

    regime: Regime
    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    attacker_train: NDArray[np.int64]
    attacker_validation: NDArray[np.int64]
    test: NDArray[np.int64]
    certify: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def parts(self) -> dict[str, NDArray[np.int64]]:
        """The parts by name, in the order of `PARTS`, then `certify` where it has rows."""
        names = (*PARTS, "certify") if len(self.certify) else PARTS
        return {name: getattr(self, name) for name in names}


def partition(
    task: Task,
    *,
    regime: Regime | None = None,
    shares: tuple[float, ...] = DEFAULT_SHARES,
    certify: float = 0.0,
    seed: int = 0,
) -> Partition:
    """Split `task` for defender, attacker and test.

    `certify` is the share that is taken from `train` for the part of that name.

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
    if not 0 <= certify < shares[0]:
        raise DataError(
            f"Expected certify, a share of the training part's {shares[0]:g}, at 0 or more and "
            f"below that, got certify={certify}."
        )
    names: tuple[str, ...] = PARTS
    if certify > 0:
        names, shares = (*PARTS, "certify"), (shares[0] - certify, *shares[1:], certify)
    rng = seeded(seed, 1)
    if regime == "unseen":
        assigned = _deal_users(task, shares, rng)
    else:
        in_time_order = task.users is not None and task.recordings is None
        assigned = _deal(
            _units(task),
            _strata(task),
            shares,
            rng,
            users=task.users,
            shuffled=not in_time_order,
        )
    parts = {
        name: rng.permutation(np.flatnonzero(assigned == index)) for index, name in enumerate(names)
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
        _refuse_straddling(task.users, np.array([0, 0, 1, 1, 2, 0, -1])[owner], "user")
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
    """The public class of each row; rows of recordings of several classes are one class more."""
    if task.kind is Kind.REGRESSION:
        return np.zeros(len(task), dtype=np.int64)
    labels = task.public.astype(np.int64)
    if task.recordings is None:
        return labels
    _, first, recording = np.unique(task.recordings, return_index=True, return_inverse=True)
    mixed = np.zeros(len(first), dtype=np.bool_)
    mixed[recording[labels != labels[first][recording]]] = True
    return np.where(mixed[recording], task.classes, labels)


def _deal(
    units: NDArray[Any],
    strata: NDArray[np.int64],
    shares: tuple[float, ...],
    rng: np.random.Generator,
    *,
    users: NDArray[np.int64] | None = None,
    shuffled: bool = True,
) -> NDArray[np.int64]:
    """Assign whole units to parts by the quotas of each user's strata.

    Without `users` all are one user's. Unshuffled, a cell's earlier units go to earlier parts.
    """
    names, first, inverse = np.unique(units, return_index=True, return_inverse=True)
    user = np.zeros(len(names), dtype=np.int64) if users is None else users[first]
    cells, cell, sizes = np.unique(
        np.stack([user, strata[first]], axis=1), axis=0, return_inverse=True, return_counts=True
    )
    lot = rng.permutation(len(names)) if shuffled else np.arange(len(names))
    quotas = _quotas(sizes, np.unique(cells[:, 1], return_inverse=True)[1], shares, rng)
    part_of_unit = np.empty(len(names), dtype=np.int64)
    part_of_unit[np.lexsort((lot, cell.ravel()))] = np.repeat(
        np.tile(np.arange(len(shares)), len(quotas)), quotas.ravel()
    )
    return part_of_unit[inverse]


def _quotas(
    sizes: NDArray[np.int64],
    strata: NDArray[np.int64],
    shares: tuple[float, ...],
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """How many units of each cell go to each part, (cells, parts).

    A cell is one stratum of one user, one user's follow each other. Each quota is size * share
    rounded down or up. Which parts are rounded up follows what the cells before, and those of the
    same stratum, have left them short of: so every user, every stratum and all together are shared
    out nearly as asked, and many small cells don't leave a small part empty.
    """
    proportions = np.asarray(shares) / sum(shares)
    exact = sizes[:, None] * proportions
    quotas = np.floor(exact + 1e-9).astype(np.int64)
    short = exact - quotas
    extras = sizes - quotas.sum(axis=1)
    owed = 1e-6 * rng.uniform(size=len(shares))
    owed_stratum = np.zeros((int(strata.max()) + 1, len(shares)))
    for cell, (stratum, extra) in enumerate(zip(strata.tolist(), extras.tolist(), strict=True)):
        owed += short[cell]
        owed_stratum[stratum] += short[cell]
        chosen = np.argsort(-(owed + owed_stratum[stratum]))[:extra]
        quotas[cell, chosen] += 1
        owed[chosen] -= 1
        owed_stratum[stratum, chosen] -= 1
    return quotas


def _deal_users(
    task: Task, shares: tuple[float, ...], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Whole users to defender, attacker and test; then recordings or rows within each group.

    Users are dealt evenly within each combination of the private attributes that are constant
    per user, so that no group is short of, say, women.
    """
    if task.users is None:
        raise DataError("regime='unseen' needs user ids: give the field 'users'.")
    names, first, inverse = np.unique(task.users, return_index=True, return_inverse=True)
    if len(names) < 6:
        raise DataError(f"regime='unseen' needs at least 6 users, got {len(names)}.")
    constant = [
        values
        for values in task.private.values()
        if np.array_equal(values, values[first][inverse]) and len(np.unique(values)) < len(names)
    ]
    kinds = np.zeros(len(names), dtype=np.int64)
    for values in constant:
        kinds = kinds * (int(values.max()) + 1) + values[first]
    spare = shares[5:]
    sides = (shares[0] + shares[1] + sum(spare), shares[2] + shares[3], shares[4])
    side = _deal(task.users, kinds[inverse], sides, rng)
    assigned = np.where(side == 2, 4, side * 2)
    units, strata = _units(task), _strata(task)
    for index in (0, 1):
        rows = np.flatnonzero(side == index)
        within = shares[2 * index : 2 * index + 2] + (spare if index == 0 else ())
        dealt = _deal(units[rows], strata[rows], within, rng)
        assigned[rows] = np.where(dealt == 2, len(PARTS), 2 * index + dealt)
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
