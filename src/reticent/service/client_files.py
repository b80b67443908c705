"""Client files: the encoder and what belongs to it, as a listing with digests.

Both ends compute the same digest from the listing, so a client that knows the digest from
elsewhere (the bundle's manifest, say) needn't trust the server for the files.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from reticent.errors import BundleError

CLIENT_DIGEST = "reticent.client_digest"  # V2 parameter
MAX_FILES = 256
MAX_TOTAL_BYTES = 512 << 20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class ClientFile:
    """One file of a flat folder; `size` in bytes."""

    name: str
    sha256: str
    size: int

    def check(self, content: bytes) -> None:
        """Raise `BundleError` unless `content` is this file's."""
        found = hashlib.sha256(content).hexdigest()
        if len(content) != self.size or found != self.sha256:
            raise BundleError(
                f"Expected sha256={self.sha256} for client file {self.name!r}, got {found}. "
                "Do not use it."
            )


@dataclass(frozen=True, kw_only=True)
class ClientListing:
    """The files that one model's client needs, sorted by name."""

    files: tuple[ClientFile, ...]

    def __post_init__(self) -> None:
        names = [file.name for file in self.files]
        if names != sorted(set(names)) or len(names) > MAX_FILES:
            raise BundleError(f"Expected at most {MAX_FILES} files, each name once, sorted.")
        for file in self.files:
            if not _NAME.fullmatch(file.name) or not _SHA256.fullmatch(file.sha256):
                raise BundleError(f"Expected a plain file name and digest, got {file.name!r}.")
            if file.size < 0:
                raise BundleError(f"Expected size={file.size} >= 0 for {file.name!r}.")
        if sum(file.size for file in self.files) > MAX_TOTAL_BYTES:
            raise BundleError(f"Expected client files of at most {MAX_TOTAL_BYTES} bytes in all.")

    @property
    def digest(self) -> str:
        """SHA-256 over the names, digests and sizes, in hex."""
        listing = json.dumps([asdict(file) for file in self.files], sort_keys=True)
        return hashlib.sha256(listing.encode()).hexdigest()

    def to_json(self) -> list[dict[str, Any]]:
        """A JSON array that `from_json` restores."""
        return [asdict(file) for file in self.files]

    @classmethod
    def from_json(cls, records: Any) -> ClientListing:
        """The listing that `to_json` wrote. Raises `BundleError` for anything else."""
        try:
            files = tuple(
                ClientFile(
                    name=str(record["name"]),
                    sha256=str(record["sha256"]),
                    size=int(record["size"]),
                )
                for record in records
            )
        except (TypeError, KeyError, ValueError) as error:
            raise BundleError("Expected a list of client files: name, sha256, size.") from error
        return cls(files=files)


def read_client_files(folder: Path) -> tuple[ClientListing, Mapping[str, bytes]]:
    """The listing of a flat folder, and its files' contents by name.

    Read once and kept: what is served later is what the digests say, whatever happens to the
    folder, and a request can name only a key of this mapping, so no path can lead out of it.
    Raises `BundleError` for folders in it, links, and names that don't travel.
    """
    contents: dict[str, bytes] = {}
    total = 0
    for path in sorted(folder.iterdir()):
        if path.is_symlink() or not path.is_file() or not _NAME.fullmatch(path.name):
            raise BundleError(f"Expected plain files in the client folder, got {path.name!r}.")
        total += path.stat().st_size
        if total > MAX_TOTAL_BYTES:
            raise BundleError(f"Expected client files of at most {MAX_TOTAL_BYTES} bytes in all.")
        contents[path.name] = path.read_bytes()
    return ClientListing(files=tuple(_describe(contents.items()))), contents


def _describe(contents: Iterable[tuple[str, bytes]]) -> Iterable[ClientFile]:
    for name, content in sorted(contents):
        digest = hashlib.sha256(content).hexdigest()
        yield ClientFile(name=name, sha256=digest, size=len(content))
