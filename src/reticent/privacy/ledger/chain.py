"""The hash chain over the ledger's log, and the key that signs its head.

Each entry's SHA-256 covers its position, its text, and the hash before it; one Ed25519 signature
covers the number of entries and the last hash. Without the key nobody can alter, drop, re-order
or append entries unseen. Only the newest signature is kept, so a shortened log has none that fits.
What this can't show is a whole older file put back in place: for that, keep a receipt (position
and hash of an entry) elsewhere and hand it to `verify`.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from reticent.errors import ConfigError, EvidenceError

GENESIS = "0" * 64


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """Proof, to be kept elsewhere, that the ledger had this entry at this position."""

    position: int
    hash: str

    def __str__(self) -> str:
        return f"{self.position}:{self.hash}"

    @classmethod
    def parse(cls, text: str) -> Receipt:
        """The receipt that `str` wrote; `ConfigError` for anything else."""
        position, _, found = text.partition(":")
        if not position.isascii() or not position.isdigit() or len(found) != 64:
            raise ConfigError(f"Expected POSITION:HASH, got receipt={text!r}. Copy it whole.")
        return cls(position=int(position), hash=found)


class SigningKey:
    """The ledger's private key; its text form shows the public half alone."""

    __slots__ = ("_private", "_seed", "public")

    def __init__(self, seed: bytes) -> None:
        self._seed = seed
        self._private = Ed25519PrivateKey.from_private_bytes(seed)
        self.public = self._private.public_key().public_bytes_raw().hex()

    def __repr__(self) -> str:
        return f"SigningKey(public={self.public!r})"

    @classmethod
    def load(cls, path: Path) -> SigningKey:
        """The key in the file; `EvidenceError` where it is absent, open to others, or no key."""
        try:
            mode = path.stat().st_mode
            text = path.read_text(encoding="ascii").strip()
            seed = bytes.fromhex(text)
        except FileNotFoundError:
            raise EvidenceError(
                f"Expected the ledger's key, got key={str(path)!r}: it isn't there. "
                "Name the file with --key, or restore it; a ledger can't be charged without."
            ) from None
        except (OSError, ValueError) as error:
            raise EvidenceError(
                f"Expected a readable key file, got key={str(path)!r}: {error}. Restore it."
            ) from None
        if stat.S_IMODE(mode) & 0o077:
            raise EvidenceError(
                f"Expected a key that only its owner can read, got mode={stat.S_IMODE(mode):04o} "
                f"of key={str(path)!r}. Run: chmod 600 {path}"
            )
        if len(seed) != 32:
            raise EvidenceError(f"Expected 32 bytes in key={str(path)!r}, got {len(seed)}.")
        return cls(seed)

    @classmethod
    def create(cls, path: Path) -> SigningKey:
        """A new key, on disk with mode 0600 before it signs anything; the one there if there is."""
        seed = os.urandom(32)
        draft = path.with_name(f"{path.name}.{os.urandom(8).hex()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "w", encoding="ascii") as file:
                file.write(seed.hex() + "\n")
                file.flush()
                os.fsync(file.fileno())
            try:
                # A link appears whole or not at all, and never replaces a key.
                os.link(draft, path)
            except FileExistsError:
                return cls.load(path)
            finally:
                draft.unlink()
        except OSError as error:
            raise ConfigError(
                f"Expected to write key={str(path)!r}, got: {error.strerror}. Choose another --key."
            ) from None
        return cls(seed)

    def sign(self, position: int, found: str) -> str:
        """The signature (hex) over a head."""
        return self._private.sign(_head(position, found)).hex()

    def endorse(self, text: str) -> str:
        """The signature (hex) over a document that isn't the ledger's own."""
        return self._private.sign(_document(text)).hex()

    def token(self, digest: str) -> str:
        """A keyed name for a record, so that the ledger itself tells nobody who is in the data."""
        return hmac.new(self._seed, b"record " + digest.encode(), hashlib.sha256).hexdigest()


def is_signed(public: str, position: int, found: str, signature: str) -> bool:
    """Whether `signature` is the key's over this head."""
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public))
        key.verify(bytes.fromhex(signature), _head(position, found))
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def is_endorsed(public: str, text: str, signature: str) -> bool:
    """Whether `signature` is the key's over this document."""
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public))
        key.verify(bytes.fromhex(signature), _document(text))
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def entry_hash(position: int, previous: str, body: str) -> str:
    """The hash (hex) of one log entry."""
    return hashlib.sha256(f"{position}\n{previous}\n{body}".encode()).hexdigest()


def canonical(record: Any) -> str:
    """The one JSON text of a record; `ConfigError` where it has none."""
    try:
        return json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"Expected values that JSON can hold, got {error}. Use text and finite numbers."
        ) from None


def _head(position: int, found: str) -> bytes:
    return f"reticent ledger head\n{position}\n{found}".encode()


def _document(text: str) -> bytes:
    # Another first line than a head's: a signature over one never passes for the other.
    return b"reticent document\n" + text.encode()
