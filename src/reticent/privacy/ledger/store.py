"""The one SQL layer under the ledger: durable, serialised transactions.

Statements are written once, in the SQL that SQLite and PostgreSQL share, with `?` for parameters.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from reticent.errors import ConfigError, EvidenceError, ReticentError

# INTEGER keys are the rows' own places in SQLite: a charge touches two pages less.
SCHEMA = (
    "CREATE TABLE IF NOT EXISTS log (position INTEGER PRIMARY KEY, body TEXT NOT NULL, "
    "previous TEXT NOT NULL, hash TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS head (id INTEGER PRIMARY KEY CHECK (id = 1), "
    "position BIGINT NOT NULL, hash TEXT NOT NULL, signature TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS dataset (id TEXT PRIMARY KEY, name TEXT NOT NULL, "
    "unit TEXT NOT NULL, relation TEXT NOT NULL, size BIGINT NOT NULL, blocks TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS block (id TEXT PRIMARY KEY, unit TEXT NOT NULL, "
    "relation TEXT NOT NULL, cap TEXT NOT NULL, spent TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS token (token TEXT PRIMARY KEY, block TEXT NOT NULL, "
    "position BIGINT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS quota (block TEXT NOT NULL, analyst TEXT NOT NULL, "
    "cap TEXT NOT NULL, spent TEXT NOT NULL, PRIMARY KEY (block, analyst))",
    "CREATE TABLE IF NOT EXISTS charge (id INTEGER PRIMARY KEY, idempotency TEXT NOT NULL UNIQUE, "
    "request TEXT NOT NULL, dataset TEXT NOT NULL, analyst TEXT NOT NULL, cost TEXT NOT NULL, "
    "state TEXT NOT NULL)",
)
Rows = list[tuple[Any, ...]]


class Transaction(Protocol):
    """Statements that take effect together or not at all."""

    def run(self, statement: str, *parameters: Any) -> Rows:
        """The rows that `statement` returns; [] where it returns none."""

    def run_many(self, statement: str, parameters: Sequence[tuple[Any, ...]]) -> None:
        """Run `statement` once per tuple of parameters."""


class Store(Protocol):
    """A database whose writing transactions follow one another and survive a power cut."""

    def writing(self) -> contextlib.AbstractContextManager[Transaction]:
        """One transaction that no other writer interleaves; durable once the block is left."""

    def reading(self) -> contextlib.AbstractContextManager[Transaction]:
        """One consistent view."""

    def close(self) -> None:
        """Give the connection back; the next transaction opens another."""


class SQLiteStore:
    """A file on a local disk: WAL, BEGIN IMMEDIATE, synchronous=FULL.

    Threads take turns. Before a fork the connection is closed on both sides, because SQLite's
    locks don't survive one; each side then opens its own. WAL needs shared memory, so the file
    must not lie on a network file system. `ConfigError` where the file can't be opened,
    `EvidenceError` where it is no database, `ReticentError` where another process holds the lock
    for longer than `patience` seconds.
    """

    def __init__(self, path: str | Path, *, create: bool = False, patience: float = 60.0) -> None:
        self.path, self._patience = Path(path), patience
        self.lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._process = os.getpid()
        if not create and not self.path.is_file():
            raise ConfigError(
                f"Expected a ledger, got ledger={str(self.path)!r}: it isn't there. "
                "Make one with: reticent budget grant"
            )
        close_before_fork(self)
        if create:
            self._make()

    @contextlib.contextmanager
    def writing(self) -> Iterator[Transaction]:
        """See `Store.writing`."""
        with self._transaction("BEGIN IMMEDIATE") as transaction:
            yield transaction

    @contextlib.contextmanager
    def reading(self) -> Iterator[Transaction]:
        """See `Store.reading`."""
        with self._transaction("BEGIN") as transaction:
            yield transaction

    def close(self) -> None:
        """See `Store.close`."""
        with self.lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    @contextlib.contextmanager
    def _transaction(self, begin: str) -> Iterator[Transaction]:
        with self.lock, _explained(self.path):
            connection = self._connected()
            connection.execute(begin)
            try:
                yield _SQLiteTransaction(connection)
                # Only after COMMIT returns has the write reached the disk.
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def _connected(self) -> sqlite3.Connection:
        if self._process != os.getpid() and self._connection is not None:
            raise ReticentError(
                "Expected this ledger in the process that opened it; it was carried over by a fork "
                "that Python did not see. Open the ledger again in the new process."
            )
        self._process = os.getpid()
        if self._connection is None:
            opened = sqlite3.connect(
                self.path, timeout=self._patience, isolation_level=None, check_same_thread=False
            )
            # Kept only once it is sure to wait for the disk.
            opened.execute("PRAGMA synchronous = FULL")
            self._connection = opened
        return self._connection

    def _make(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # What was charged, and for what, is nobody else's business. SQLite gives its
            # side files the same mode.
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
        except OSError as error:
            raise ConfigError(
                f"Expected to write ledger={str(self.path)!r}, got: {error.strerror}. "
                "Choose another path."
            ) from None
        self._switch_to_wal()
        with self.writing() as transaction:
            for statement in SCHEMA:
                transaction.run(statement)
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _switch_to_wal(self) -> None:
        """SQLite doesn't wait for this lock: who makes the same file at once tries again."""
        deadline = time.monotonic() + self._patience
        with self.lock, _explained(self.path):
            while True:
                try:
                    self._connected().execute("PRAGMA journal_mode = WAL")
                    return
                except sqlite3.OperationalError as error:
                    if "locked" not in str(error) or time.monotonic() > deadline:
                        raise
                    time.sleep(0.01)


class _SQLiteTransaction:
    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def run(self, statement: str, *parameters: Any) -> Rows:
        return self._connection.execute(statement, parameters).fetchall()

    def run_many(self, statement: str, parameters: Sequence[tuple[Any, ...]]) -> None:
        self._connection.executemany(statement, parameters)


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """SQLite's errors as ours."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if "decode" in str(error) or "no such" in str(error):
            raise _damaged(path, error) from None
        if "locked" in str(error):
            raise ReticentError(
                f"Expected the ledger {str(path)!r} to be free, got {str(error)!r}. "
                "Another process holds it; nothing was charged. Try again."
            ) from None
        raise ConfigError(
            f"Expected to read and write ledger={str(path)!r}, got {str(error)!r}. "
            "Check the path, its permissions and the free space."
        ) from None
    except sqlite3.IntegrityError:
        raise
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> EvidenceError:
    return EvidenceError(
        f"Expected ledger={str(path)!r} to be a whole database, got {str(error)!r}. "
        "Restore it from a copy and compare that with your receipts."
    )


class Connected(Protocol):
    """A store with a connection that does not survive a fork, and the lock that guards it."""

    lock: threading.RLock

    def close(self) -> None:
        """See `Store.close`."""


_open_stores: weakref.WeakSet[Connected] = weakref.WeakSet()
_held: list[Connected] = []
# Two threads that fork at once take turns, so that neither waits for a lock the other holds.
_forking = threading.Lock()


def close_before_fork(store: Connected) -> None:
    """Have `store` closed before every fork, once its transaction under way has ended."""
    _open_stores.add(store)


def _before_fork() -> None:
    _forking.acquire()
    for store in list(_open_stores):
        store.lock.acquire()
        _held.append(store)
        store.close()


def _after_fork() -> None:
    while _held:
        _held.pop().lock.release()
    _forking.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork
    )
