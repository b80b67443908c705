"""What anybody who may read a ledger can ask it, without its key."""

from __future__ import annotations

import json
from typing import Any

from reticent.privacy.ledger.cap import Cap
from reticent.privacy.ledger.cost import Cost
from reticent.privacy.ledger.statements import (
    Balance,
    Charge,
    Dataset,
    all_datasets,
    find_charge,
    find_dataset,
)
from reticent.privacy.ledger.store import Store


class Reader:
    """The reading half of a ledger; each answer is one consistent view."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def close(self) -> None:
        """Give the store's connection back."""
        self.store.close()

    def dataset(self, name: str) -> Dataset:
        """The data set with this identity or, where that is unambiguous, this name."""
        with self.store.reading() as transaction:
            return find_dataset(transaction, name)

    def charge(self, name: str) -> Charge:
        """The charge with this id; `DataError` where there is none."""
        with self.store.reading() as transaction:
            return find_charge(transaction, name)

    def balances(self, dataset: str | None = None) -> tuple[Balance, ...]:
        """What each block has left, of one data set or of all."""
        with self.store.reading() as transaction:
            chosen = None if dataset is None else find_dataset(transaction, dataset).blocks
            rows = transaction.run("SELECT id, unit, relation, cap, spent FROM block ORDER BY id")
        return tuple(
            Balance(
                block=block,
                unit=unit,
                relation=relation,
                cap=Cap.from_json(json.loads(cap)),
                spent=Cost.from_json(json.loads(spent)),
            )
            for block, unit, relation, cap, spent in rows
            if chosen is None or block in chosen
        )

    def datasets(self) -> tuple[Dataset, ...]:
        """All registered data sets."""
        with self.store.reading() as transaction:
            return tuple(all_datasets(transaction))

    def history(self) -> tuple[dict[str, Any], ...]:
        """All entries of the log, oldest first: position, hash, and what was done when."""
        with self.store.reading() as transaction:
            rows = transaction.run("SELECT position, hash, body FROM log ORDER BY position")
        return tuple(
            {"position": position, "hash": found, **json.loads(body)}
            for position, found, body in rows
        )
