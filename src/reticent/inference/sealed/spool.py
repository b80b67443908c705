"""Evaluation keys of many clients on disk: named by their content, capped, the oldest evicted.

Keys are public and large (tens of megabytes a client). They are streamed to disk while their
digest is taken, so that memory holds one chunk of an upload, and a crash leaves no half of one.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from reticent.errors import BundleError, ConfigError, DataError
from reticent.inference.ckks.envelope import HEADER_BYTES, Kind, header


@dataclass(frozen=True, kw_only=True)
class _Entry:
    owner: str
    size: int


class KeySpool:
    """Keys for one plan in a folder that is this object's own; what lies there is deleted.

    `largest` is the most bytes that one client's keys may have. Beyond `most_bytes` in all the
    keys used longest ago go; beyond `most_per_owner` sets of keys the owner's own oldest go, so
    that no owner pushes another's out by their number. At most `most_uploads` arrive at once.
    Raises `ConfigError` for caps that hold not even one client's keys.
    """

    def __init__(
        self,
        folder: Path,
        *,
        plan: bytes,
        largest: int,
        most_bytes: int = 4 << 30,
        most_per_owner: int = 4,
        most_uploads: int = 4,
    ) -> None:
        if most_bytes < largest or most_per_owner < 1 or most_uploads < 1:
            raise ConfigError(
                f"Expected room for one client's keys of {largest} bytes, got most_bytes="
                f"{most_bytes}, {most_per_owner=}, {most_uploads=}."
            )
        self.largest = largest
        self._folder, self._plan = folder, plan
        self._most_bytes, self._most_per_owner = most_bytes, most_per_owner
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._uploads = threading.BoundedSemaphore(most_uploads)
        self._lock = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        for left in folder.iterdir():
            left.unlink()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def spooled_bytes(self) -> int:
        """Bytes of all keys on disk."""
        with self._lock:
            return sum(entry.size for entry in self._entries.values())

    @contextlib.contextmanager
    def incoming(self, owner: str) -> Iterator[Upload]:
        """An upload to write to; what isn't finished is deleted.

        Raises `TooManyUploadsError` when as many as may already arrive.
        """
        if not self._uploads.acquire(blocking=False):
            raise TooManyUploadsError("Too many evaluation keys arrive at once. Send them again.")
        try:
            descriptor, name = tempfile.mkstemp(dir=self._folder, suffix=".partial")
            with open(descriptor, "wb") as file:
                try:
                    yield Upload(self, owner, file, Path(name))
                finally:
                    Path(name).unlink(missing_ok=True)
        finally:
            self._uploads.release()

    def path(self, keys: bytes) -> Path:
        """The file of the keys with this 16-byte id, now the last that would be evicted.

        Raises `BundleError` where there is none.
        """
        name = keys.hex()
        with self._lock:
            if name not in self._entries:
                raise BundleError(
                    f"Expected evaluation keys {name[:12]} to be here. They were never uploaded, "
                    "or evicted: upload them again."
                )
            self._entries.move_to_end(name)
        return self._folder / name

    def drop(self, keys: bytes) -> None:
        """Forget these keys, if they are here."""
        with self._lock:
            self._remove(keys.hex())

    def _keep(self, owner: str, keys: bytes, file: Path, size: int) -> None:
        name = keys.hex()
        with self._lock:
            os.replace(file, self._folder / name)
            # Whoever uploads the same bytes again changes nothing about whose they are.
            owner = self._entries.pop(name, _Entry(owner=owner, size=size)).owner
            self._entries[name] = _Entry(owner=owner, size=size)
            own = [key for key, entry in self._entries.items() if entry.owner == owner]
            for old in own[: max(0, len(own) - self._most_per_owner)]:
                self._remove(old)
            while sum(entry.size for entry in self._entries.values()) > self._most_bytes:
                self._remove(next(iter(self._entries)))

    def _remove(self, name: str) -> None:
        if self._entries.pop(name, None) is not None:
            (self._folder / name).unlink(missing_ok=True)


class TooManyUploadsError(Exception):
    """The upload was not begun: come back."""


class Upload:
    """Keys on their way in: written chunk by chunk, checked as they come."""

    def __init__(self, spool: KeySpool, owner: str, file: BinaryIO, path: Path) -> None:
        self._spool, self._owner, self._file, self._path = spool, owner, file, path
        self._head = b""
        self._digest = hashlib.sha256()
        self._size = 0

    def write(self, chunk: bytes) -> None:
        """Take more bytes. Raises `DataError` as soon as they can't be keys for this plan."""
        self._size += len(chunk)
        if self._size > self._spool.largest:
            raise DataError(
                f"Expected evaluation keys of at most {self._spool.largest} bytes, got more. Make "
                "only the rotation keys that the plan lists."
            )
        missing = HEADER_BYTES - len(self._head)
        if missing > 0:
            self._head += chunk[:missing]
            if len(self._head) == HEADER_BYTES:
                self._check_head()
        self._digest.update(chunk[max(missing, 0) :])
        self._file.write(chunk)

    def finish(self) -> bytes:
        """Keep the upload; the keys' 16-byte id. Raises `DataError` unless it is whole."""
        found = header(self._head)
        if found.size != self._size - HEADER_BYTES:
            raise DataError(
                f"Expected {found.size} bytes of keys as their header says, got "
                f"{self._size - HEADER_BYTES}. Send them whole."
            )
        if self._digest.digest()[:16] != found.keys:
            raise DataError("The keys differ from their digest. They were damaged: send again.")
        self._file.flush()
        self._spool._keep(self._owner, found.keys, self._path, self._size)
        return found.keys

    def _check_head(self) -> None:
        found = header(self._head)
        if found.kind != Kind.KEYS:
            raise DataError(f"Expected evaluation keys, got an envelope of kind={found.kind}.")
        if found.plan != self._spool._plan:
            raise BundleError(
                f"Expected keys for plan {self._spool._plan.hex()[:12]}, got "
                f"{found.plan.hex()[:12]}. Fetch the client files again."
            )
