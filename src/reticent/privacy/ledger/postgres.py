"""The ledger's store on PostgreSQL, where several machines share a budget."""

from __future__ import annotations

import contextlib
import importlib
import os
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from reticent.errors import ConfigError, MissingExtraError, ReticentError
from reticent.privacy.ledger.store import SCHEMA, Rows, Transaction, close_before_fork

# One number that all makers of tables agree on, so that they take turns.
_MAKING = 7_243_118


class PostgresStore:
    """Tables in a PostgreSQL database: one writer at a time, by a lock on the head.

    `where` is a libpq connection string. Writers wait for the disk (synchronous_commit = on; the
    server's fsync must be on too). `MissingExtraError` without psycopg, `ConfigError` where the
    server can't be reached or has no ledger and `create` is False.
    """

    def __init__(self, where: str, *, create: bool = False, patience: float = 60.0) -> None:
        try:
            self._driver: Any = importlib.import_module("psycopg")
        except ImportError:
            raise MissingExtraError("psycopg", "postgres") from None
        self._where, self._patience = where, patience
        self.lock = threading.RLock()
        self._connection: Any = None
        self._process = os.getpid()
        close_before_fork(self)
        if create:
            self._make()

    @contextlib.contextmanager
    def writing(self) -> Iterator[Transaction]:
        """See `Store.writing`."""
        with self._transaction("BEGIN") as transaction:
            # Readers go on; every other writer waits here, and then sees what this one wrote.
            transaction.run("LOCK TABLE head IN EXCLUSIVE MODE")
            yield transaction

    @contextlib.contextmanager
    def reading(self) -> Iterator[Transaction]:
        """See `Store.reading`."""
        with self._transaction("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY") as transaction:
            yield transaction

    def close(self) -> None:
        """See `Store.close`."""
        with self.lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    @contextlib.contextmanager
    def _transaction(self, begin: str) -> Iterator[Transaction]:
        with self.lock, self._explained():
            connection = self._connected()
            connection.execute(begin)
            try:
                yield _PostgresTransaction(connection)
                connection.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(self._driver.Error):
                    connection.execute("ROLLBACK")
                raise

    def _connected(self) -> Any:
        if self._process != os.getpid() and self._connection is not None:
            raise ReticentError(
                "Expected this ledger in the process that opened it; it was carried over by a fork "
                "that Python did not see. Open the ledger again in the new process."
            )
        self._process = os.getpid()
        if self._connection is None or self._connection.closed:
            opened = self._driver.connect(self._where, autocommit=True)
            opened.execute("SET synchronous_commit = on")
            opened.execute(f"SET lock_timeout = {int(1000 * self._patience)}")
            self._connection = opened
        return self._connection

    def _make(self) -> None:
        with self._transaction("BEGIN") as transaction:
            transaction.run("SELECT pg_advisory_xact_lock(?)", _MAKING)
            for statement in SCHEMA:
                transaction.run(statement)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """The driver's errors as ours; never the connection string, which may hold a password."""
        try:
            yield
        except self._driver.errors.LockNotAvailable as error:
            raise ReticentError(
                f"Expected the ledger to be free, got {_line(error)!r}. Another process holds it; "
                "nothing was charged. Try again."
            ) from None
        except self._driver.errors.UndefinedTable as error:
            raise ConfigError(
                f"Expected a ledger in this database, got {_line(error)!r}. Make one with create."
            ) from None
        except self._driver.OperationalError as error:
            raise ConfigError(
                f"Expected to reach the PostgreSQL server, got {_line(error)!r}. A charge under "
                "way may stand or not: ask again with the same key."
            ) from None


class _PostgresTransaction:
    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def run(self, statement: str, *parameters: Any) -> Rows:
        cursor = self._connection.execute(statement.replace("?", "%s"), parameters or None)
        return cursor.fetchall() if cursor.description else []

    def run_many(self, statement: str, parameters: Sequence[tuple[Any, ...]]) -> None:
        with self._connection.cursor() as cursor:
            cursor.executemany(statement.replace("?", "%s"), parameters)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
