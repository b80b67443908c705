"""Spending: a registered table is charged before it is read, and stays charged whatever happens.

    reserve -> read, check that it is the registered table -> start -> mechanism -> commit -> output

Up to the start nothing of the records has been used but their identity and their columns' names, so
a table that turns out to be another one gives the reservation back. From the start on, every
failure, a refusal that depends on the records included, leaves the charge standing.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reticent.errors import ConfigError, DataError, EvidenceError, UnsupportedError
from reticent.privacy.ledger import (
    Charge,
    Cost,
    Dataset,
    Ledger,
    dataset_digest,
    record_digests,
)
from reticent.privacy.ledger.files import file_digests
from reticent.release.price import ADD_OR_REMOVE
from reticent.release.table import Table, expect_columns, read_table

RESERVED = "reserved"


@dataclass(frozen=True, kw_only=True)
class Holding:
    """A table, and how the ledger knows it.

    `data` is a file, or columns; `dataset` the name or identity under which it was granted a
    budget: by default the file's stem, else its content's identity. `user` is the column of user
    ids where the budget protects users, who count with at most `contributions` records each.
    """

    data: Path | Table
    dataset: str | None = None
    user: str | None = None
    contributions: int = 1

    def __post_init__(self) -> None:
        if self.contributions < 1 or (self.user is None and self.contributions != 1):
            raise ConfigError(
                f"Expected contributions >= 1, and 1 without users, got contributions="
                f"{self.contributions}, user={self.user!r}. Name the column of user ids."
            )
        if isinstance(self.data, Path) and not self.data.is_file():
            raise DataError(f"Expected a file, got data={str(self.data)!r}: it isn't there.")


@dataclass(frozen=True, kw_only=True)
class Spent:
    """What the ledger wrote for one release."""

    charge: str
    receipt: str
    dataset: str
    cost: dict[str, Any]


class Spending:
    """A charge in progress: `table` is read, and `charge` final, when the block has ended."""

    def __init__(self, table: Table, charge: Charge) -> None:
        self.table, self.charge = table, charge

    @property
    def spent(self) -> Spent:
        """The entry, with the receipt of its last state."""
        return Spent(
            charge=self.charge.id,
            receipt=str(self.charge.receipt),
            dataset=self.charge.dataset,
            cost=self.charge.cost.to_json(),
        )


@contextlib.contextmanager
def spending(
    ledger: Ledger,
    holding: Holding,
    dataset: Dataset,
    cost: Cost,
    *,
    columns: Sequence[str],
    event: Mapping[str, Any],
    key: str | None = None,
    analyst: str = "",
) -> Iterator[Spending]:
    """Charge `cost` to `dataset`, as `registered` found it for the holding; read, run, commit.

    `key` names the request: a retry with the same key is not charged twice, and is refused once
    the mechanism has started. `BudgetExhaustedError` before anything is read; `EvidenceError` for
    a table other than the registered one; `DataError` for an unknown column.
    """
    charge = ledger.reserve(
        dataset.id, cost, key=key or uuid.uuid4().hex, analyst=analyst, event=event
    )
    try:
        # Only a charge that has never started can read, so the check comes before.
        table = _read(holding, dataset, columns)
    except Exception:
        if charge.state == RESERVED:
            ledger.cancel(charge.id)
        raise
    made = Spending(table, ledger.start(charge.id))
    yield made
    made.charge = ledger.commit(charge.id)


def registered(ledger: Ledger, holding: Holding) -> Dataset:
    """The ledger's entry for the holding; `DataError` where it was granted nothing.

    Where no name is given and the file's stem is none, the file is read for its identity alone.
    """
    name = holding.dataset
    if name is None and isinstance(holding.data, Path):
        name = _stem_or_identity(ledger, holding, holding.data)
    found = ledger.dataset(name or identity(holding))
    if (found.unit == "user") != (holding.user is not None):
        raise ConfigError(
            f"Expected a column of user ids for a budget per user and only then, got "
            f"unit={found.unit!r}, user={holding.user!r}. "
            + ("Give user=COLUMN." if found.unit == "user" else "Leave user out.")
        )
    if found.relation != ADD_OR_REMOVE:
        raise UnsupportedError(
            f"Expected a budget for neighbours that {ADD_OR_REMOVE} unit, got "
            f"relation={found.relation!r}. Not yet: grant one with that relation."
        )
    return found


def _stem_or_identity(ledger: Ledger, holding: Holding, path: Path) -> str:
    named = [item for item in ledger.datasets() if item.name == path.stem]
    return named[0].id if len(named) == 1 else identity(holding)


def identity(holding: Holding) -> str:
    """The data set's identity by its content, as `Ledger.grant` gives it."""
    return dataset_digest(" ".join(sorted(unit)) for unit in _units(holding))


def _units(holding: Holding) -> Iterable[tuple[str, ...]]:
    """Each unit's digests. The one place where releases meet the ledger's identity of records."""
    if isinstance(holding.data, Path):
        return file_digests(holding.data, user=holding.user)
    if holding.user is None:
        return [(digest,) for digest in record_digests(holding.data)]
    expect_columns(holding.data, [holding.user])
    users = record_digests({holding.user: holding.data[holding.user]})
    units: dict[str, dict[str, None]] = {}
    for name, digest in zip(users, record_digests(holding.data), strict=True):
        units.setdefault(f"user {name}", {})[digest] = None
    return [(name, *digests) for name, digests in units.items()]


def _read(holding: Holding, dataset: Dataset, columns: Sequence[str]) -> Table:
    before = _stamp(holding.data)
    if identity(holding) != dataset.id:
        raise EvidenceError(
            f"Expected the table that was granted its budget as dataset={dataset.name!r}, got "
            "another: its records differ. Nothing was charged. Grant this one a budget (reticent "
            "budget grant), or name its data set."
        )
    table = read_table(holding.data)
    if _stamp(holding.data) != before:
        raise EvidenceError("Expected a table that stands still, got one that changed meanwhile.")
    user = () if holding.user is None else (holding.user,)
    expect_columns(table, (*columns, *user))
    return table


def _stamp(data: Path | Table) -> tuple[int, ...]:
    if not isinstance(data, Path):
        return ()
    found = data.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns
