"""API keys: who may call which model.

A key is `rk_<id>.<secret>`; the secret is 256 random bits, shown once and never stored. The file
holds SHA-256 of the secret. A slow, salted hash would add nothing: those protect guessable
passwords, and nobody searches 2**256 secrets, while every request would pay for it.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import os
import re
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from reticent.errors import AuthenticationError, ConfigError

ALL_MODELS = "*"
METRICS_SCOPE = "/metrics"  # can't be a model's name, so "*" never grants it by accident
_BEARER = re.compile(rb"[Bb]earer +rk_([0-9a-f]{16})\.([A-Za-z0-9_-]{43}) *")
_NOBODY = hashlib.sha256(b"no such key").hexdigest()


class ApiKey(str):
    """A whole key, secret included; its `repr` hides it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"ApiKey({self.split('.')[0]}.hidden)"


@dataclass(frozen=True, kw_only=True)
class KeyRecord:
    """What the server keeps of one key. Times are seconds since 1970; `expires` None is never."""

    id: str
    secret_sha256: str
    scopes: tuple[str, ...]
    created: float
    expires: float | None = None
    revoked: bool = False

    def allows(self, scope: str) -> bool:
        """Whether the key may use this model (or `METRICS_SCOPE`)."""
        return scope in self.scopes or (ALL_MODELS in self.scopes and not scope.startswith("/"))


class KeyStore:
    """The keys in one JSON file, mode 0600, replaced atomically.

    A running server sees changes (a revocation, say) within `reload_seconds`. `clock` is the
    wall clock, for expiry; `monotonic` paces the reloads.
    """

    def __init__(
        self,
        path: Path,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        reload_seconds: float = 1.0,
    ) -> None:
        self._path = path
        self._clock = clock
        self._monotonic = monotonic
        self._reload_seconds = reload_seconds
        self._records: Mapping[str, KeyRecord] = {}
        self._stamp: tuple[int, int, int] | None = None
        self._next_look = 0.0
        self._look(force=True)

    def create(self, *scopes: str, lifetime: float | None = None) -> ApiKey:
        """A new key for these models (`"*"`: all), valid `lifetime` seconds (None: no end)."""
        if not scopes:
            raise ConfigError(f"Expected at least one model name or {ALL_MODELS!r} as scope.")
        now = self._clock()
        secret = secrets.token_urlsafe(32)
        record = KeyRecord(
            id=secrets.token_hex(8),
            secret_sha256=hashlib.sha256(secret.encode()).hexdigest(),
            scopes=tuple(scopes),
            created=now,
            expires=None if lifetime is None else now + lifetime,
        )
        with self._writing() as records:
            records[record.id] = record
        return ApiKey(f"rk_{record.id}.{secret}")

    def revoke(self, key_id: str) -> None:
        """Refuse this key from now on. Raises `ConfigError` when there is none of this id."""
        with self._writing() as records:
            if key_id not in records:
                raise ConfigError(f"Expected the id of a key in the store, got key_id={key_id!r}.")
            records[key_id] = replace(records[key_id], revoked=True)

    def records(self) -> tuple[KeyRecord, ...]:
        """All keys, as stored."""
        self._look(force=True)
        return tuple(self._records.values())

    def authenticate(self, authorization: bytes | None) -> KeyRecord:
        """The key in an Authorization header. Raises `AuthenticationError`.

        One message for all causes: telling an unknown id from a wrong secret, or from an expired
        key, would help a guesser.
        """
        self._look()
        match = None if authorization is None else _BEARER.fullmatch(authorization)
        if match is None:
            raise AuthenticationError(
                "Expected an API key in the header 'Authorization: Bearer rk_...'."
            )
        key_id, secret = match.groups()
        record = self._records.get(key_id.decode())
        # Compare in any case, so that an unknown id takes as long as a wrong secret.
        stored = _NOBODY if record is None else record.secret_sha256
        is_right = hmac.compare_digest(stored, hashlib.sha256(secret).hexdigest())
        if record is None or not is_right or not self._is_live(record):
            raise AuthenticationError("The API key is unknown, expired or revoked.")
        return record

    def _is_live(self, record: KeyRecord) -> bool:
        return not record.revoked and (record.expires is None or self._clock() < record.expires)

    def _look(self, *, force: bool = False) -> None:
        now = self._monotonic()
        if not force and now < self._next_look:
            return
        try:
            info = self._path.stat()
        except FileNotFoundError:
            self._records, self._stamp = {}, None
        else:
            stamp = (info.st_ino, info.st_mtime_ns, info.st_size)
            if stamp != self._stamp:
                if info.st_mode & 0o022:
                    raise ConfigError(
                        f"The key file {self._path.name} is writable by others. "
                        "Run chmod 600 on it."
                    )
                self._records, self._stamp = _read(self._path), stamp
        # Only a good look buys time: an unreadable file refuses every request until repaired.
        self._next_look = now + self._reload_seconds

    @contextmanager
    def _writing(self) -> Iterator[dict[str, KeyRecord]]:
        """The records to change; written back unless the body raises. One writer at a time."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        lock = self._path.with_name(self._path.name + ".lock")
        with open(os.open(lock, os.O_RDWR | os.O_CREAT, 0o600), "w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            self._look(force=True)
            records = dict(self._records)
            yield records
            _write(self._path, records)
            self._look(force=True)


def _read(path: Path) -> dict[str, KeyRecord]:
    try:
        document: dict[str, Any] = json.loads(path.read_text())
        if document["schema"] != 1:
            raise ConfigError(f"Expected schema=1 in {path.name}, got {document['schema']!r}.")
        records = [
            KeyRecord(**{**record, "scopes": tuple(record["scopes"])})
            for record in document["keys"]
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"The key file {path.name} can't be read ({type(error).__name__}). "
            "Restore it, or make new keys."
        ) from error
    return {record.id: record for record in records}


def _write(path: Path, records: Mapping[str, KeyRecord]) -> None:
    document = {"schema": 1, "keys": [asdict(record) for record in records.values()]}
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)  # mode 0600
    try:
        with open(descriptor, "w") as file:
            json.dump(document, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
