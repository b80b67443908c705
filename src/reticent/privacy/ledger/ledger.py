"""The ledger: grants caps to blocks of records, and charges them before data are read.

    ledger = Ledger.create("budget.db")
    data = ledger.grant("clinic", record_digests(columns), cap=Cap(epsilon=3.0, delta=1e-6))
    with ledger.spending(data.id, gaussian(noise_multiplier=8.0), key="mean age, May") as charge:
        noisy = mechanism(...)       # a crash in here leaves the charge standing
    publish(noisy)                   # only once the charge is committed

States of a charge: reserved -> started -> committed; reserved -> cancelled. Nothing is ever
cancelled by itself, and nothing at all once the mechanism has started.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from reticent.errors import BudgetExhaustedError, ConfigError, DataError, EvidenceError
from reticent.privacy.ledger.cap import Cap, epsilon_at
from reticent.privacy.ledger.chain import (
    GENESIS,
    Receipt,
    SigningKey,
    canonical,
    entry_hash,
    is_signed,
)
from reticent.privacy.ledger.cost import FREE, Cost
from reticent.privacy.ledger.identity import dataset_digest
from reticent.privacy.ledger.reading import Reader
from reticent.privacy.ledger.statements import (
    CANCELLED,
    COMMITTED,
    RESERVED,
    STARTED,
    Charge,
    Dataset,
    all_datasets,
    charge_number,
    find_charge,
    find_dataset,
    known_blocks,
    last_position,
    standing_charges,
)
from reticent.privacy.ledger.store import SQLiteStore, Store, Transaction

Unit = Literal["record", "user"]


class Ledger(Reader):
    """A ledger on a store. Every writing method is one durable transaction.

    **Claim.** For each block: the mechanisms whose outputs left, chosen adaptively by anybody,
    together satisfy the block's cap (see `cap`), also when processes are killed at any moment,
    power fails, or many processes race. **Assumptions.** Outputs leave only after `commit`
    returned; costs bound the mechanisms; the disk keeps what it says it has written; nobody else
    writes the file or puts an older copy back (`verify` finds the first, receipts the second).
    """

    def __init__(
        self, store: Store, key: SigningKey, *, clock: Callable[[], float] = time.time
    ) -> None:
        super().__init__(store)
        self.key, self._clock = key, clock
        self._seen: tuple[object, ...] = ()

    @classmethod
    def create(cls, path: str | Path, *, key: str | Path | None = None) -> Ledger:
        """A ledger in a file, made where absent; its key beside it (`PATH.key`, mode 0600)."""
        path = Path(path)
        key_path = key_file(path) if key is None else Path(key)
        # The file always comes first, so a key without one means that a ledger was lost.
        if key_path.exists() and not path.exists():
            raise EvidenceError(
                f"Expected the ledger of key={str(key_path)!r}, got ledger={str(path)!r}: it isn't "
                "there. A new one would grant spent budgets again. Restore it from a copy."
            )
        return cls.on(SQLiteStore(path, create=True), key_path)

    @classmethod
    def open(cls, path: str | Path, *, key: str | Path | None = None) -> Ledger:
        """An existing ledger; `ConfigError` where there is none, `EvidenceError` without key."""
        path = Path(path)
        store = SQLiteStore(path)
        return cls.on(store, key_file(path) if key is None else Path(key))

    @classmethod
    def on(cls, store: Store, key: Path) -> Ledger:
        """A ledger on a store that has the tables; where they are empty, a new one with a new key.

        `EvidenceError` where the key file is absent, open to others, or another ledger's.
        """
        with store.writing() as transaction:
            is_new = not transaction.run("SELECT position FROM head") and not transaction.run(
                "SELECT position FROM log LIMIT 1"
            )
            signing = SigningKey.create(key) if is_new else SigningKey.load(key)
            ledger = cls(store, signing)
            if is_new:
                record = {"kind": "open", "version": 1, "public": signing.public}
                ledger._append(transaction, record)
            ledger._head(transaction)
        return ledger

    def grant(
        self,
        name: str,
        digests: Sequence[str] | Sequence[Iterable[str]],
        *,
        cap: Cap,
        unit: Unit = "record",
        relation: str = "add or remove one",
    ) -> Dataset:
        """Register a data set and give its new records a block with this cap.

        `digests` holds one digest per unit; for users, or records known under several names, one
        collection of digests per unit (say its user id's and all its records'). Units known from
        earlier data sets stay in their blocks, whatever the data set is called now and whatever
        else it holds, so a copy, a part, or a superset gets no second budget for them. Granting
        again is allowed and changes nothing; a cap, once granted, never changes: `ConfigError`.
        `DataError` for no units or an empty digest. Which blocks come back tells whether a record
        was there before: only those who may see the data may grant.
        """
        units = [(item,) if isinstance(item, str) else tuple(item) for item in digests]
        if not units or not all(item and all(item) for item in units):
            raise DataError(f"Expected one digest or more per unit, got units={len(units)}.")
        identity = dataset_digest(" ".join(sorted(item)) for item in units)
        tokens = [tuple(self.key.token(digest) for digest in item) for item in units]
        with self._writing() as transaction:
            known = known_blocks(transaction, {token for item in tokens for token in item})
            touched = set(known.values())
            position = last_position(transaction) + 1
            new_block = f"b-{identity[:16]}-{position}"
            fresh = _placed(tokens, known, new_block)
            is_new = new_block in fresh.values()
            for block in sorted(touched):
                self._check_terms(transaction, block, cap, unit, relation)
            blocks = sorted(touched | ({new_block} if is_new else set()))
            dataset = Dataset(
                id=identity,
                name=name,
                unit=unit,
                relation=relation,
                size=len(units),
                blocks=tuple(blocks),
            )
            if not fresh and all_datasets(transaction, identity):
                return all_datasets(transaction, identity)[0]
            self._append(
                transaction,
                {
                    "kind": "grant",
                    "dataset": identity,
                    "name": name,
                    "unit": unit,
                    "relation": relation,
                    "size": len(units),
                    "blocks": blocks,
                    "new": new_block if is_new else None,
                    "cap": cap.to_json(),
                    "tokens": token_digest(fresh.items()),
                },
            )
            if is_new:
                transaction.run(
                    "INSERT INTO block (id, unit, relation, cap, spent) VALUES (?, ?, ?, ?, ?)",
                    *(new_block, unit, relation),
                    *(canonical(cap.to_json()), canonical(FREE.to_json())),
                )
            transaction.run_many(
                "INSERT INTO token (token, block, position) VALUES (?, ?, ?)",
                [(token, block, position) for token, block in fresh.items()],
            )
            transaction.run(
                "INSERT INTO dataset (id, name, unit, relation, size, blocks) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                *(identity, name, unit, relation, len(units), canonical(blocks)),
            )
        return dataset

    def limit(self, dataset: str, analyst: str, *, cap: Cap) -> None:
        """Hold one analyst to `cap` on each block that the data set has now.

        Only an extra quota within the blocks' caps: caps per analyst alone would not bound what
        analysts who share their answers learn together. `ConfigError` where the analyst has
        another quota or has charged before.
        """
        with self._writing() as transaction:
            blocks = find_dataset(transaction, dataset).blocks
            for block in blocks:
                held = transaction.run(
                    "SELECT cap FROM quota WHERE block = ? AND analyst = ?", block, analyst
                )
                if held and held[0][0] != canonical(cap.to_json()):
                    raise ConfigError(
                        f"Expected analyst={analyst!r} without a quota, got cap={held[0][0]}. "
                        "Quotas don't change once granted."
                    )
            if transaction.run("SELECT id FROM charge WHERE analyst = ?", analyst):
                raise ConfigError(
                    f"Expected a quota before the first charge, got analyst={analyst!r} with "
                    "charges. Use another analyst name."
                )
            self._append(
                transaction,
                {"kind": "quota", "blocks": list(blocks), "analyst": analyst, "cap": cap.to_json()},
            )
            for block in blocks:
                transaction.run(
                    "INSERT INTO quota (block, analyst, cap, spent) VALUES (?, ?, ?, ?) "
                    "ON CONFLICT DO NOTHING",
                    *(block, analyst, canonical(cap.to_json()), canonical(FREE.to_json())),
                )

    def reserve(
        self,
        dataset: str,
        cost: Cost,
        *,
        key: str,
        analyst: str = "",
        event: Mapping[str, Any] | None = None,
    ) -> Charge:
        """Charge the worst case `cost` to every block of the data set, before data are read.

        `key` makes a retry safe: the same key with the same request returns the same charge and
        debits nothing; with another request, or after a cancellation, it is refused
        (`ConfigError`). `event` says what will run, as JSON. `BudgetExhaustedError` where a cap
        or quota would be passed: then nothing is charged. `DataError` for an unknown data set.
        """
        if not key:
            raise ConfigError("Expected a key that names this request, got key=''. Choose one.")
        with self._writing() as transaction:
            registered = find_dataset(transaction, dataset)
            about = {
                "dataset": registered.id,
                "cost": cost.to_json(),
                "analyst": analyst,
                "event": dict(event or {}),
            }
            request = hashlib.sha256(canonical(about).encode()).hexdigest()
            held = transaction.run("SELECT id, request FROM charge WHERE idempotency = ?", key)
            if held:
                charge = find_charge(transaction, f"c-{held[0][0]}")
                if held[0][1] != request or charge.state == CANCELLED:
                    raise ConfigError(
                        f"Expected a new key for a new request, got key={key!r} of the "
                        f"{charge.state} charge {charge.id}. Choose another key."
                    )
                return charge
            self._debit(transaction, registered.blocks, analyst, cost)
            number = last_position(transaction) + 1
            name = f"c-{number}"
            receipt = self._append(
                transaction,
                {"kind": "reserve", "charge": name, "key": key, "request": request, **about},
            )
            transaction.run(
                "INSERT INTO charge (id, idempotency, request, dataset, analyst, cost, state) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                *(
                    number,
                    key,
                    request,
                    registered.id,
                    analyst,
                    canonical(cost.to_json()),
                    RESERVED,
                ),
            )
            return Charge(
                id=name,
                dataset=registered.id,
                key=key,
                analyst=analyst,
                cost=cost,
                state=RESERVED,
                receipt=receipt,
            )

    def start(self, charge: str) -> Charge:
        """Mark that the mechanism is about to read data: once per charge, and no way back."""
        return self._move(charge, {RESERVED}, STARTED)

    def commit(self, charge: str) -> Charge:
        """Mark that the output may leave: once per charge. Release it only after this returned."""
        return self._move(charge, {STARTED}, COMMITTED)

    def cancel(self, charge: str) -> Charge:
        """Give a charge back whose mechanism never started; `ConfigError` once it has."""
        return self._move(charge, {RESERVED}, CANCELLED)

    @contextlib.contextmanager
    def spending(
        self,
        dataset: str,
        cost: Cost,
        *,
        key: str,
        analyst: str = "",
        event: Mapping[str, Any] | None = None,
    ) -> Iterator[Charge]:
        """Reserve and start a charge, run the body, commit. An exception leaves it charged."""
        charge = self.reserve(dataset, cost, key=key, analyst=analyst, event=event)
        yield self.start(charge.id)
        self.commit(charge.id)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[Transaction]:
        with self.store.writing() as transaction:
            self._head(transaction)
            yield transaction

    def _head(self, transaction: Transaction) -> None:
        """Check that the head is the newest entry and signed with our key."""
        rows = transaction.run("SELECT position, hash, signature FROM head")
        last = transaction.run("SELECT position, hash FROM log ORDER BY position DESC LIMIT 1")
        if not rows or not last or last[0] != rows[0][:2]:
            raise EvidenceError(
                f"Expected the head of the log at its last entry, got head={rows} and last={last}. "
                "Entries were lost or added outside. Run: reticent budget verify"
            )
        position, found, signature = rows[0]
        # A head that was verified, or signed here, is not verified again.
        if rows[0] != self._seen and not is_signed(self.key.public, position, found, signature):
            raise EvidenceError(
                f"Expected the head of the log signed with public={self.key.public}, got "
                f"signature={signature[:16]}... The key is another ledger's, or the head forged."
            )
        self._seen = rows[0]

    def _append(self, transaction: Transaction, record: dict[str, Any]) -> Receipt:
        last = transaction.run("SELECT position, hash FROM head")
        position, previous = last[0] if last else (0, GENESIS)
        body = canonical(record | {"at": round(self._clock(), 3)})
        position += 1
        found = entry_hash(position, previous, body)
        signature = self.key.sign(position, found)
        transaction.run(
            "INSERT INTO log (position, body, previous, hash) VALUES (?, ?, ?, ?)",
            *(position, body, previous, found),
        )
        transaction.run(
            "INSERT INTO head (id, position, hash, signature) VALUES (1, ?, ?, ?) "
            "ON CONFLICT (id) DO UPDATE SET position = excluded.position, hash = excluded.hash, "
            "signature = excluded.signature",
            *(position, found, signature),
        )
        self._seen = (position, found, signature)
        return Receipt(position=position, hash=found)

    def _debit(
        self, transaction: Transaction, blocks: Iterable[str], analyst: str, cost: Cost
    ) -> None:
        for block in blocks:
            rows = transaction.run("SELECT cap, spent FROM block WHERE id = ?", block)
            total = _admitted(f"block {block}", rows[0], cost)
            transaction.run("UPDATE block SET spent = ? WHERE id = ?", total, block)
            held = transaction.run(
                "SELECT cap, spent FROM quota WHERE block = ? AND analyst = ?", block, analyst
            )
            if held:
                total = _admitted(f"analyst {analyst!r} on block {block}", held[0], cost)
                transaction.run(
                    "UPDATE quota SET spent = ? WHERE block = ? AND analyst = ?",
                    *(total, block, analyst),
                )

    def _move(self, name: str, sources: set[str], target: str) -> Charge:
        with self._writing() as transaction:
            charge = find_charge(transaction, name)
            if charge.state not in sources:
                raise ConfigError(
                    f"Expected a charge in state {' or '.join(sources)} to make it {target}, got "
                    f"state={charge.state!r} of {name}. It stays charged; reserve another."
                )
            receipt = self._append(transaction, {"kind": target, "charge": name})
            transaction.run("UPDATE charge SET state = ? WHERE id = ?", target, charge_number(name))
            if target == CANCELLED:
                self._refund(transaction, charge)
        return Charge(
            id=name,
            dataset=charge.dataset,
            key=charge.key,
            analyst=charge.analyst,
            cost=charge.cost,
            state=target,
            receipt=receipt,
        )

    def _refund(self, transaction: Transaction, charge: Charge) -> None:
        """Recount what is left from the log: infinite costs can't be subtracted."""
        for block in find_dataset(transaction, charge.dataset).blocks:
            standing = standing_charges(transaction, block)
            total = sum((cost for _, cost in standing), FREE)
            transaction.run(
                "UPDATE block SET spent = ? WHERE id = ?", canonical(total.to_json()), block
            )
            own = sum((cost for who, cost in standing if who == charge.analyst), FREE)
            transaction.run(
                "UPDATE quota SET spent = ? WHERE block = ? AND analyst = ?",
                *(canonical(own.to_json()), block, charge.analyst),
            )

    def _check_terms(
        self, transaction: Transaction, block: str, cap: Cap, unit: str, relation: str
    ) -> None:
        rows = transaction.run("SELECT cap, unit, relation FROM block WHERE id = ?", block)
        if rows[0] != (canonical(cap.to_json()), unit, relation):
            raise ConfigError(
                f"Expected the terms that block {block} of these records already has, cap="
                f"{rows[0][0]}, unit={rows[0][1]!r}, relation={rows[0][2]!r}; got "
                f"cap={canonical(cap.to_json())}, unit={unit!r}, relation={relation!r}. Terms "
                "don't change once granted: grant the same, or register only new records."
            )


def key_file(ledger: Path) -> Path:
    """Where the key of a ledger lies unless told otherwise."""
    return ledger.with_name(ledger.name + ".key")


def token_digest(pairs: Iterable[tuple[str, str]]) -> str:
    """SHA-256 (hex) of which token lies in which block."""
    return hashlib.sha256(
        "\n".join(sorted(" ".join(map(str, p)) for p in pairs)).encode()
    ).hexdigest()


@functools.lru_cache(maxsize=256)
def _cap(text: str) -> Cap:
    """The cap of its stored form; kept, because its limits take a while to work out."""
    return Cap.from_json(json.loads(text))


def _admitted(what: str, row: tuple[Any, ...], cost: Cost) -> str:
    """The new sum as stored; `BudgetExhaustedError` where the cap does not admit it."""
    cap, spent = _cap(row[0]), Cost.from_json(json.loads(row[1]))
    total = spent + cost
    if not cap.admits(total):
        raise BudgetExhaustedError(
            f"Expected the charge to fit {what} with epsilon={cap.epsilon:g}, delta={cap.delta:g}, "
            f"of which epsilon={epsilon_at(spent, cap.delta):.4g} is spent; got a cost of epsilon="
            f"{epsilon_at(cost, cap.delta):.4g} (together {epsilon_at(total, cap.delta):.4g} as a "
            "fixed list; adaptive charges are held to slightly less than the cap). Nothing was "
            "charged. Add noise, or use records with budget left."
        )
    return canonical(total.to_json())


def _placed(
    units: Sequence[tuple[str, ...]], known: Mapping[str, str], new_block: str
) -> dict[str, str]:
    """The block of each new token: its unit's, or the new one; `DataError` for a unit in two."""
    fresh: dict[str, str] = {}
    for number, item in enumerate(units):
        homes = {known.get(token) or fresh.get(token) for token in item} - {None}
        if len(homes) > 1:
            raise DataError(
                f"Expected each unit's digests in one block, got unit={number} in {len(homes)}. "
                "Identify users by their ids alone, or grant one data set that holds them all."
            )
        home = homes.pop() or new_block if homes else new_block
        fresh |= {token: home for token in item if token not in known}
    return fresh
