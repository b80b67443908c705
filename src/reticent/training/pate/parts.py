"""Who teaches what: every user (or record) in one teacher's part, by a hash of the name alone.

The guarantee rests on this: a user's records reach one teacher, and whether that user is there at
all moves no other user to another teacher. So a part is decided by the user's id, or by the
record's own content where there are no users, and never by a row's number, which changes as soon as
an earlier row goes. The number of teachers and the salt are fixed before the data are looked at;
the salt may be public. How many units a part holds is private.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reticent.errors import ConfigError, DataError
from reticent.privacy.ledger import record_digests


@dataclass(frozen=True, kw_only=True)
class Parting:
    """How units are dealt: public, fixed before the data are seen. A fresh salt unless given."""

    teachers: int
    salt: bytes = field(default_factory=lambda: os.urandom(16))

    def __post_init__(self) -> None:
        if self.teachers < 2 or len(self.salt) < 8:
            raise ConfigError(
                "Expected two teachers or more and a salt of 8 bytes or more, got "
                f"teachers={self.teachers}, {len(self.salt)} bytes."
            )

    def teacher(self, unit: str) -> int:
        """The teacher of the unit with this name."""
        found = hashlib.sha256(len(self.salt).to_bytes(4, "big") + self.salt + unit.encode())
        # 128 bits, so that the remainder is even to within 2^-100.
        return int.from_bytes(found.digest()[:16], "big") % self.teachers

    def rows(self, units: list[str]) -> list[NDArray[np.int64]]:
        """The rows of each teacher, in their order; empty where no unit falls to a teacher."""
        owner = {unit: self.teacher(unit) for unit in set(units)}
        given = np.array([owner[unit] for unit in units], dtype=np.int64)
        return [np.flatnonzero(given == teacher) for teacher in range(self.teachers)]


def units_of(
    x: NDArray[Any], y: NDArray[Any], users: NDArray[np.integer] | list[str] | None
) -> list[str]:
    """The name of each row's unit: the user's id, or a digest of the record.

    Equal records share a name, so they share a teacher. `DataError` for columns of different
    length.
    """
    if users is None:
        return record_digests({"x": x, "y": y})
    if len(users) != len(x):
        raise DataError(f"Expected one user per record, got {len(users)} for {len(x)} records.")
    return [f"user {user}" for user in users]
