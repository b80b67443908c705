"""Ciphertexts and keys on the wire: a versioned header around the library's own bytes.

"RTCK", version, kind, plan digest (16 bytes), key id (16 bytes), checksum of the content, length.
The checksum shows damage, not malice: it is the validating loader that strangers' bytes meet.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from io import SEEK_END
from typing import BinaryIO

import numpy as np

from reticent.errors import BundleError, DataError

_MAGIC, _VERSION = b"RTCK", 2
_HEADER = struct.Struct("<4sBB16s16sIQ")
HEADER_BYTES = _HEADER.size
_COLUMNS = 1024
# What is read of a file at a time.
PIECE = 128 * 8 * _COLUMNS


class Kind(IntEnum):
    """What an envelope holds."""

    REQUEST = 1
    REPLY = 2
    KEYS = 3


@dataclass(frozen=True, kw_only=True)
class Envelope:
    """Bytes with where they belong: `plan` and `keys` are 16-byte digests."""

    kind: Kind
    plan: bytes
    keys: bytes
    content: bytes | memoryview

    def pack(self) -> bytes:
        """Header and content."""
        checksum, size = checksum_of(self.content), len(self.content)
        head = _HEADER.pack(_MAGIC, _VERSION, self.kind, self.plan, self.keys, checksum, size)
        return b"".join((head, self.content))


def checksum_of(content: bytes | memoryview) -> int:
    """32 bits that change with any bit, and with nearly every other damage.

    The CRC-32 of column sums of the 64-bit words, and of the rest: a tenth of the time that a
    CRC of megabytes takes.
    """
    words = len(content) // (8 * _COLUMNS) * _COLUMNS
    table = np.frombuffer(content, dtype="<u8", count=words).reshape(-1, _COLUMNS)
    return zlib.crc32(content[8 * words :], zlib.crc32(table.sum(axis=0)))


def checksum_of_stream(stream: BinaryIO) -> int:
    """`checksum_of` what is left in `stream`, a piece at a time."""
    sums, rest = np.zeros(_COLUMNS, dtype="<u8"), b""
    while piece := stream.read(PIECE):
        words = len(piece) // (8 * _COLUMNS) * _COLUMNS
        table = np.frombuffer(piece, dtype="<u8", count=words).reshape(-1, _COLUMNS)
        sums, rest = sums + table.sum(axis=0), piece[8 * words :]
    return zlib.crc32(rest, zlib.crc32(sums.tobytes()))


@dataclass(frozen=True, kw_only=True)
class Header:
    """What the first `HEADER_BYTES` say; `size` is the content's, in bytes."""

    kind: int
    plan: bytes
    keys: bytes
    size: int


def header(data: bytes) -> Header:
    """The header at the start of `data`. Raises `DataError` for anything else."""
    if len(data) < HEADER_BYTES:
        raise DataError(f"Expected an envelope of over {HEADER_BYTES} bytes, got {len(data)}.")
    magic, version, kind, plan, keys, _checksum, size = _HEADER.unpack_from(data)
    if magic != _MAGIC or version != _VERSION:
        raise DataError(
            f"Expected an envelope of version {_VERSION}, got other bytes or version={version}. "
            "Client and server may be of different versions."
        )
    return Header(kind=kind, plan=plan, keys=keys, size=size)


def unpack(data: bytes, *, kind: Kind, plan: bytes, most: int) -> Envelope:
    """The envelope in `data`, checked before its content is looked at.

    Raises `DataError` for anything but a whole envelope of `kind` with at most `most` bytes of
    content, `BundleError` for one that belongs to another plan.
    """
    # A view: requests are megabytes, and are copied once at most, by the library.
    content = memoryview(data)[HEADER_BYTES:]
    keys, checksum = _belongs(data, len(content), kind=kind, plan=plan, most=most)
    if checksum_of(content) != checksum:
        raise _damaged()
    return Envelope(kind=kind, plan=plan, keys=keys, content=content)


def unpack_stream(stream: BinaryIO, *, kind: Kind, plan: bytes, most: int) -> bytes:
    """As `unpack`, of a file: its key id, with `stream` at the start of the content."""
    head = stream.read(HEADER_BYTES)
    length = stream.seek(0, SEEK_END) - len(head)
    keys, checksum = _belongs(head, length, kind=kind, plan=plan, most=most)
    stream.seek(HEADER_BYTES)
    if checksum_of_stream(stream) != checksum:
        raise _damaged()
    stream.seek(HEADER_BYTES)
    return keys


def _belongs(data: bytes, length: int, *, kind: Kind, plan: bytes, most: int) -> tuple[bytes, int]:
    """Key id and checksum of an envelope that is what was asked for, by its header."""
    if len(data) < HEADER_BYTES:
        raise DataError(f"Expected an envelope of over {HEADER_BYTES} bytes, got {len(data)}.")
    magic, version, found, owner, keys, checksum, size = _HEADER.unpack_from(data)
    if magic != _MAGIC or version != _VERSION or found != kind:
        raise DataError(
            f"Expected an envelope of kind {kind.name}, version {_VERSION}, got kind={found}, "
            f"version={version}. Client and server may be of different versions."
        )
    if size != length or size > most:
        raise DataError(
            f"Expected the {size} bytes that the header states and at most {most}, got "
            f"{length}. Send it whole."
        )
    if owner != plan:
        raise BundleError(
            f"Expected ciphertexts for plan {plan.hex()[:12]}, got {owner.hex()[:12]}. "
            "Fetch the client files again."
        )
    return keys, checksum


def _damaged() -> DataError:
    return DataError("The content differs from its checksum. It was damaged on the way: resend.")


def join(parts: list[bytes]) -> bytes:
    """Several byte strings as one, each after its length."""
    return b"".join(struct.pack("<Q", len(part)) + part for part in parts)


def split(content: bytes | memoryview, *, count: int, most: int) -> list[bytes]:
    """The `count` byte strings that `join` joined, each of at most `most` bytes."""
    parts: list[bytes] = []
    at = 0
    for _ in range(count):
        if at + 8 > len(content):
            raise DataError(f"Expected {count} parts, got {len(parts)}.")
        (size,) = struct.unpack_from("<Q", content, at)
        if size > most or at + 8 + size > len(content):
            raise DataError(f"Expected a part of at most {most} bytes, got size={size}.")
        parts.append(bytes(content[at + 8 : at + 8 + size]))
        at += 8 + size
    if at != len(content):
        raise DataError(f"Expected {count} parts, got {len(content) - at} bytes more.")
    return parts


def part_sizes(stream: BinaryIO, *, count: int, most: int) -> Iterator[int]:
    """As `split`, of what is left in a file: the size of each part, which is to be read next."""
    at = stream.tell()
    end = stream.seek(0, SEEK_END)
    for index in range(count):
        if at + 8 > end:
            raise DataError(f"Expected {count} parts, got {index}.")
        stream.seek(at)
        (size,) = struct.unpack("<Q", stream.read(8))
        if size > most or at + 8 + size > end:
            raise DataError(f"Expected a part of at most {most} bytes, got size={size}.")
        yield size
        at += 8 + size
    if at != end:
        raise DataError(f"Expected {count} parts, got {end - at} bytes more.")
