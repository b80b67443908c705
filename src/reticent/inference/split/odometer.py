"""What one user's requests may have told a server so far, kept by the client, durably.

Every request is charged before it leaves; a charge is committed to disk first, so a crash can
only over-count. Bits bound everything that crossed; nats bound what crossed beyond the labels.
"""

from __future__ import annotations

import sqlite3
import threading
from dataclasses import dataclass
from pathlib import Path

from reticent.errors import BudgetExhaustedError, ConfigError


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Totals of one user: requests, bits (all), nats (beyond the label)."""

    requests: int
    bits: float
    nats: float


class Odometer:
    """Adds up leakage per user in an SQLite file and refuses what would exceed its limits.

    Limits of None mean: count, never refuse. Composition is by the chain rule (sums). Threads and
    processes may share one file. Raises `ConfigError` for a file that is no odometer.
    """

    def __init__(
        self, path: Path, *, max_bits: float | None = None, max_nats: float | None = None
    ) -> None:
        for name, limit in (("max_bits", max_bits), ("max_nats", max_nats)):
            if limit is not None and not limit >= 0:
                raise ConfigError(f"Expected {name} >= 0, got {name}={limit}.")
        self._limits = {"bits": max_bits, "nats": max_nats}
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, isolation_level=None, timeout=30, check_same_thread=False)
        try:
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS spent "
                "(user TEXT PRIMARY KEY, requests INTEGER NOT NULL, "
                "bits REAL NOT NULL, nats REAL NOT NULL)"
            )
            self.read("")
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise ConfigError(
                f"Expected an odometer in {path.name!r}, got: {error}. Choose another file."
            ) from error

    def charge(self, user: str, *, requests: int, bits: float, nats: float) -> Reading:
        """Charge `requests` requests of `bits` and `nats` each; the new totals.

        Raises `BudgetExhaustedError`, charging nothing, when a limit would be passed;
        `ConfigError` for a charge that would take something back.
        """
        if not (requests >= 1 and bits >= 0 and nats >= 0):
            raise ConfigError(
                "Expected requests >= 1, bits >= 0 and nats >= 0, got "
                f"requests={requests}, bits={bits}, nats={nats}."
            )
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                before = self._row(user)
                after = Reading(
                    requests=before.requests + requests,
                    bits=before.bits + requests * bits,
                    nats=before.nats + requests * nats,
                )
                self._check(user, before, after)
                self._db.execute(
                    "INSERT OR REPLACE INTO spent VALUES (?, ?, ?, ?)",
                    (user, after.requests, after.bits, after.nats),
                )
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
        return after

    def read(self, user: str) -> Reading:
        """The totals of `user` so far."""
        with self._lock:
            return self._row(user)

    def _check(self, user: str, before: Reading, after: Reading) -> None:
        for name, limit in self._limits.items():
            spent = getattr(after, name)
            if limit is not None and spent > limit:
                raise BudgetExhaustedError(
                    f"The odometer of user {user!r} stands at {getattr(before, name):g} {name}; "
                    f"{after.requests - before.requests} more requests would make it {spent:g}, "
                    f"over the limit of {limit:g}. Nothing was sent."
                )

    def _row(self, user: str) -> Reading:
        row = self._db.execute(
            "SELECT requests, bits, nats FROM spent WHERE user = ?", (user,)
        ).fetchone()
        if row is None:
            return Reading(requests=0, bits=0.0, nats=0.0)
        return Reading(requests=row[0], bits=row[1], nats=row[2])

    def close(self) -> None:
        """Close the file; charges already committed stay."""
        self._db.close()
