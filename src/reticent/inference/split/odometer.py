"""What one user's requests may have told a server so far, kept by the client, durably.

Every request is charged before it leaves; a charge is committed to disk first, so a crash can
only over-count. Bits bound everything that crossed; nats bound what crossed beyond the labels.
"""

from __future__ import annotations

import math
import sqlite3
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

    Limits of None mean: count, never refuse. Composition is by the chain rule (sums).
    """

    def __init__(
        self, path: Path, *, max_bits: float | None = None, max_nats: float | None = None
    ) -> None:
        for name, limit in (("max_bits", max_bits), ("max_nats", max_nats)):
            if limit is not None and not limit >= 0:
                raise ConfigError(f"Expected {name} >= 0, got {name}={limit}.")
        self._limits = {"bits": max_bits, "nats": max_nats}
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, isolation_level=None, timeout=30, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS spent "
            "(user TEXT PRIMARY KEY, requests INTEGER, bits REAL, nats REAL)"
        )

    def charge(self, user: str, *, requests: int, bits: float, nats: float) -> Reading:
        """Charge `requests` requests of `bits` and `nats` each; the new totals.

        Raises `BudgetExhaustedError`, charging nothing, when a limit would be passed.
        """
        self._db.execute("BEGIN IMMEDIATE")
        try:
            before = self.read(user)
            after = Reading(
                requests=before.requests + requests,
                bits=before.bits + requests * bits,
                nats=before.nats + (requests * nats if nats else 0.0),
            )
            for name, limit in self._limits.items():
                spent = getattr(after, name)
                if limit is not None and spent > limit:
                    raise BudgetExhaustedError(
                        f"The odometer of user {user!r} stands at {getattr(before, name):g} "
                        f"{name}; {requests} more requests would make it {spent:g}, over the "
                        f"limit of {limit:g}. Nothing was sent."
                    )
            self._db.execute(
                "INSERT OR REPLACE INTO spent VALUES (?, ?, ?, ?)",
                (user, after.requests, _stored(after.bits), _stored(after.nats)),
            )
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")
        return after

    def read(self, user: str) -> Reading:
        """The totals of `user` so far."""
        row = self._db.execute(
            "SELECT requests, bits, nats FROM spent WHERE user = ?", (user,)
        ).fetchone()
        if row is None:
            return Reading(requests=0, bits=0.0, nats=0.0)
        return Reading(requests=int(row[0]), bits=_read(row[1]), nats=_read(row[2]))

    def close(self) -> None:
        """Close the file; charges already committed stay."""
        self._db.close()


def _stored(value: float) -> float:
    return value if math.isfinite(value) else -1.0


def _read(value: float) -> float:
    return math.inf if value < 0 else float(value)
