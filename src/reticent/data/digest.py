"""Digests: real data are used only if they are the bytes that the reader was written for."""

from __future__ import annotations

import hashlib
from pathlib import Path

from reticent.errors import DataError


def read_verified(path: Path, sha256: str) -> bytes:
    """The file's bytes, after checking them: what is parsed is what was hashed.

    Raises `DataError` when the file is missing or its SHA-256 differs, naming both digests.
    """
    if not path.is_file():
        raise DataError(
            f"Expected the file {path.name!r} in the folder {str(path.parent)!r}: it isn't there. "
            "Point root= or the environment variable RETICENT_DATA to the folder that holds the "
            "data sets, one folder each."
        )
    content = path.read_bytes()
    check_digest(content, sha256, path.name)
    return content


def check_digest(content: bytes, sha256: str, name: str) -> None:
    """Raise `DataError` unless `content` has this SHA-256."""
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise DataError(
            f"Expected {name!r} with sha256={sha256}, got sha256={found}. "
            "Public copies of data sets are often altered: fetch the copy that the docs name."
        )


def check_rows(found: int, expected: int, name: str) -> None:
    """Raise `DataError` unless `name` has the number of rows that its authors published."""
    if found != expected:
        raise DataError(f"Expected {expected} rows in {name!r}, got rows={found}.")
