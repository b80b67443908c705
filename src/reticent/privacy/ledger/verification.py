"""Whether a ledger is what its key holder wrote: the log re-read, every other table re-derived.

The replay shares no code with the writing side beyond sums and hashes, so a fault of that side
shows here too: a cap overdrawn, a charge committed twice.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from reticent.errors import EvidenceError
from reticent.privacy.ledger.cap import Cap
from reticent.privacy.ledger.chain import GENESIS, Receipt, canonical, entry_hash, is_signed
from reticent.privacy.ledger.cost import FREE, Cost
from reticent.privacy.ledger.ledger import token_digest
from reticent.privacy.ledger.statements import charge_number
from reticent.privacy.ledger.store import Store, Transaction

_MOST_FAULTS = 5
_BEFORE = {"started": "reserved", "committed": "started", "cancelled": "reserved"}
_COLUMNS = {
    "dataset": "id, name, unit, relation, size, blocks",
    "block": "id, unit, relation, cap, spent",
    "quota": "block, analyst, cap, spent",
    "charge": "id, idempotency, request, dataset, analyst, cost, state",
}


@dataclass(frozen=True, kw_only=True)
class Verified:
    """A ledger that passed: its number of entries, and a receipt of the last to keep elsewhere."""

    entries: int
    charges: int
    receipt: Receipt


def verify(store: Store, public: str, *, receipts: Sequence[Receipt] = ()) -> Verified:
    """The verified head of the ledger in `store`, or `EvidenceError` with what is wrong with it.

    `public` is the hex of the key that must have signed the head. Found are: any altered,
    removed, added, shortened or re-ordered entry of the log; any row of the other tables that
    does not follow from it; a cap that was passed. A whole older file is found only by
    `receipts` of entries that it lacks.
    """
    with store.reading() as transaction:
        log = transaction.run("SELECT position, body, previous, hash FROM log ORDER BY position")
        head = transaction.run("SELECT id, position, hash, signature FROM head")
        faults = [*_chain_faults(log), *_head_faults(log, head, public)]
        faults += _receipt_faults(log, receipts)
        # Entries that the signature does not cover are not worth reading.
        if not faults:
            replay = _Replay()
            for position, body, _, _ in log:
                replay.read(position, json.loads(body))
            faults = replay.faults + _table_faults(transaction, replay)
    if faults:
        shown = "; ".join(faults[:_MOST_FAULTS])
        more = f"; and {len(faults) - _MOST_FAULTS} more" if len(faults) > _MOST_FAULTS else ""
        raise EvidenceError(
            f"Expected a ledger as its key signed it, got faults={len(faults)}: {shown}{more}. "
            "Trust no budget in it: restore a copy that fits your receipts."
        )
    position, _, _, found = log[-1]
    return Verified(
        entries=len(log),
        charges=len(replay.charges),
        receipt=Receipt(position=position, hash=found),
    )


def _chain_faults(log: Sequence[tuple[Any, ...]]) -> Iterable[str]:
    before = GENESIS
    for expected, (position, body, previous, found) in enumerate(log, 1):
        if position != expected:
            yield f"entry {expected} is missing"
            return
        if previous != before or entry_hash(position, previous, body) != found:
            yield f"entry {position} is altered"
            return
        before = found


def _head_faults(
    log: Sequence[tuple[Any, ...]], head: Sequence[tuple[Any, ...]], public: str
) -> Iterable[str]:
    if not log or len(head) != 1:
        yield f"the log has {len(log)} entries and {len(head)} heads"
        return
    number, position, found, signature = head[0]
    if number != 1 or (position, found) != (log[-1][0], log[-1][3]):
        yield f"the head is at entry {position}, the log ends at {log[-1][0]}"
    if not is_signed(public, position, found, signature):
        yield f"the head isn't signed by public={public}"


def _receipt_faults(log: Sequence[tuple[Any, ...]], receipts: Sequence[Receipt]) -> Iterable[str]:
    hashes = {row[0]: row[3] for row in log}
    for receipt in receipts:
        if hashes.get(receipt.position) != receipt.hash:
            yield f"the entry of receipt {receipt} is gone"


@dataclass
class _Replay:
    """What the tables must hold, from the log alone."""

    faults: list[str] = field(default_factory=list)
    datasets: dict[str, dict[str, Any]] = field(default_factory=dict)
    blocks: dict[str, dict[str, Any]] = field(default_factory=dict)
    quotas: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    charges: dict[str, dict[str, Any]] = field(default_factory=dict)
    tokens: dict[int, str] = field(default_factory=dict)
    _caps: dict[str, Cap] = field(default_factory=dict)
    _total: dict[tuple[str, str | None], Cost] = field(default_factory=dict)

    def read(self, position: int, entry: dict[str, Any]) -> None:
        kind = entry["kind"]
        if kind == "grant":
            self.datasets[entry["dataset"]] = entry
            self.tokens[position] = entry["tokens"]
            if entry["new"] is not None:
                self.blocks[entry["new"]] = entry
        elif kind == "quota":
            for block in entry["blocks"]:
                self.quotas.setdefault((block, entry["analyst"]), entry)
        elif kind == "reserve":
            self.charges[entry["charge"]] = entry | {"state": "reserved"}
            self._check_caps(position, entry)
        elif kind in _BEFORE:
            charge = self.charges[entry["charge"]]
            if charge["state"] != _BEFORE[kind]:
                self.faults.append(f"entry {position} makes a {charge['state']} charge {kind}")
            charge["state"] = kind
            if kind == "cancelled":
                self._total.clear()
        elif kind != "open" or position != 1:
            self.faults.append(f"entry {position} is of unknown kind {kind!r}")

    def total(self, block: str, analyst: str | None) -> Cost:
        """The charges that stand against a block, of one analyst or (None) of all."""
        return sum(
            (
                Cost.from_json(charge["cost"])
                for charge in self.charges.values()
                if charge["state"] != "cancelled"
                and block in self.datasets[charge["dataset"]]["blocks"]
                and analyst in (None, charge["analyst"])
            ),
            FREE,
        )

    def _check_caps(self, position: int, entry: dict[str, Any]) -> None:
        for block in self.datasets[entry["dataset"]]["blocks"]:
            holders = [(None, self.blocks[block])]
            quota = self.quotas.get((block, entry["analyst"]))
            if quota is not None:
                holders.append((entry["analyst"], quota))
            for analyst, holder in holders:
                # Running sums keep the replay linear; a cancellation makes them start again.
                held = self._total.get((block, analyst))
                added = Cost.from_json(entry["cost"])
                total = self.total(block, analyst) if held is None else held + added
                self._total[block, analyst] = total
                if not self._cap(holder["cap"]).admits(total):
                    self.faults.append(f"entry {position} passes the cap of block {block}")

    def _cap(self, record: dict[str, Any]) -> Cap:
        return self._caps.setdefault(canonical(record), Cap.from_json(record))

    def rows(self, table: str) -> list[tuple[Any, ...]]:
        if table == "dataset":
            names = ("name", "unit", "relation", "size")
            return [
                (key, *(entry[name] for name in names), canonical(entry["blocks"]))
                for key, entry in self.datasets.items()
            ]
        if table == "block":
            return [
                (key, entry["unit"], entry["relation"], *self._sums(entry, key, None))
                for key, entry in self.blocks.items()
            ]
        if table == "quota":
            return [
                (block, analyst, *self._sums(entry, block, analyst))
                for (block, analyst), entry in self.quotas.items()
            ]
        names = ("key", "request", "dataset", "analyst")
        return [
            (
                charge_number(key),
                *(entry[name] for name in names),
                canonical(entry["cost"]),
                entry["state"],
            )
            for key, entry in self.charges.items()
        ]

    def _sums(self, entry: dict[str, Any], block: str, analyst: str | None) -> tuple[str, str]:
        return canonical(entry["cap"]), canonical(self.total(block, analyst).to_json())


def _table_faults(transaction: Transaction, replay: _Replay) -> list[str]:
    faults = []
    for table, columns in _COLUMNS.items():
        held = transaction.run(f"SELECT {columns} FROM {table}")  # noqa: S608
        if len(held) != len(set(held)) or set(held) != set(replay.rows(table)):
            names = sorted({str(row[0]) for row in set(held) ^ set(replay.rows(table))})
            faults.append(f"table {table} does not follow from the log at {names[:3]}")
    pairs: dict[int, list[tuple[str, str]]] = {position: [] for position in replay.tokens}
    for token, block, position in transaction.run("SELECT token, block, position FROM token"):
        pairs.setdefault(position, []).append((token, block))
    for position, found in pairs.items():
        if token_digest(found) != replay.tokens.get(position):
            faults.append(f"the records of the grant in entry {position} are altered")
    return faults
