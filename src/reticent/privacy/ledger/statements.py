"""What the ledger holds, as data: data sets, charges, balances; read from its tables."""

from __future__ import annotations

import json
from dataclasses import dataclass

from reticent.errors import DataError
from reticent.privacy.ledger.cap import Cap, epsilon_at
from reticent.privacy.ledger.chain import Receipt
from reticent.privacy.ledger.cost import Cost
from reticent.privacy.ledger.store import Transaction

RESERVED, STARTED, COMMITTED, CANCELLED = "reserved", "started", "committed", "cancelled"


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A registered data set: its content's identity, and the blocks that a charge on it debits."""

    id: str
    name: str
    unit: str
    relation: str
    size: int
    blocks: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Charge:
    """A charge, with a receipt of the log's newest entry at the time of reading."""

    id: str
    dataset: str
    key: str
    analyst: str
    cost: Cost
    state: str
    receipt: Receipt


@dataclass(frozen=True, kw_only=True)
class Balance:
    """One block: its cap and what is charged against it.

    `epsilon` is what the charges, as a fixed list, amount to at the cap's delta, see `epsilon_at`.
    """

    block: str
    unit: str
    relation: str
    cap: Cap
    spent: Cost

    @property
    def epsilon(self) -> float:
        """The epsilon spent at the cap's delta."""
        return epsilon_at(self.spent, self.cap.delta)


def standing_charges(transaction: Transaction, block: str) -> list[tuple[str, Cost]]:
    """Analyst and cost of every charge that debits the block."""
    rows = transaction.run(
        "SELECT dataset.blocks, charge.analyst, charge.cost FROM charge "
        "JOIN dataset ON dataset.id = charge.dataset WHERE charge.state <> 'cancelled'"
    )
    return [
        (analyst, Cost.from_json(json.loads(cost)))
        for blocks, analyst, cost in rows
        if block in json.loads(blocks)
    ]


def known_blocks(transaction: Transaction, tokens: set[str]) -> dict[str, str]:
    """The block of each token that has one."""
    listed = sorted(tokens)
    found: dict[str, str] = {}
    for start in range(0, len(listed), 500):
        part = listed[start : start + 500]
        marks = ", ".join("?" * len(part))
        found.update(
            transaction.run(f"SELECT token, block FROM token WHERE token IN ({marks})", *part)  # noqa: S608
        )
    return found


def all_datasets(transaction: Transaction, identity: str | None = None) -> list[Dataset]:
    """The registered data sets: all, or the one with this identity."""
    where, given = ("", ()) if identity is None else (" WHERE id = ?", (identity,))
    rows = transaction.run(
        f"SELECT id, name, unit, relation, size, blocks FROM dataset{where} ORDER BY id",  # noqa: S608
        *given,
    )
    return [
        Dataset(
            id=row[0],
            name=row[1],
            unit=row[2],
            relation=row[3],
            size=row[4],
            blocks=tuple(json.loads(row[5])),
        )
        for row in rows
    ]


def last_position(transaction: Transaction) -> int:
    """How many entries the log has."""
    return int(transaction.run("SELECT position FROM head")[0][0])


def find_dataset(transaction: Transaction, name: str) -> Dataset:
    """The data set with this identity, or the only one with this name; `DataError` else."""
    found = all_datasets(transaction, name)
    if not found:
        found = [item for item in all_datasets(transaction) if item.name == name]
    if len(found) != 1:
        known = [item.name for item in all_datasets(transaction)]
        raise DataError(
            f"Expected one registered data set, got dataset={name!r} ({len(found)} match; "
            f"known: {known[:8]}). Run: reticent budget grant, or give the full identity."
        )
    return found[0]


def charge_number(name: str) -> int:
    """The key of the charge called `c-NUMBER`: the position of its entry; -1 for no such name."""
    number = name.removeprefix("c-")
    return int(number) if number.isascii() and number.isdigit() and len(number) < 10 else -1


def find_charge(transaction: Transaction, name: str) -> Charge:
    """The charge with this id; `DataError` where there is none."""
    rows = transaction.run(
        "SELECT dataset, idempotency, analyst, cost, state FROM charge WHERE id = ?",
        charge_number(name),
    )
    if not rows:
        raise DataError(f"Expected a charge of this ledger, got charge={name!r}.")
    dataset, key, analyst, cost, state = rows[0]
    head = transaction.run("SELECT position, hash FROM head")[0]
    return Charge(
        id=name,
        dataset=dataset,
        key=key,
        analyst=analyst,
        cost=Cost.from_json(json.loads(cost)),
        state=state,
        receipt=Receipt(position=head[0], hash=head[1]),
    )
