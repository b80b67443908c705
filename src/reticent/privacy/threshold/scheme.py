"""Keys, ciphertexts and openings of the additive threshold scheme (see the package's docstring)."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reticent.errors import BudgetExhaustedError, EvidenceError, InputError
from reticent.privacy.threshold import UNAUDITED
from reticent.privacy.threshold.parameters import Parameters
from reticent.privacy.threshold.ring import Residues, Ring, ring
from reticent.privacy.threshold.sampling import common, errors, smudging, ternary

_MAGIC = {"key": b"RTK1", "ciphertext": b"RTC1", "share": b"RTS1"}


@dataclass(frozen=True, kw_only=True)
class Session:
    """One key's life: its parameters and a name that no other session has."""

    parameters: Parameters
    name: str

    @property
    def ring(self) -> Ring:
        """The ring of the parameters."""
        return ring(self.parameters.degree, self.parameters.primes)

    @cached_property
    def digest(self) -> bytes:
        """16 bytes in every message, so that messages of other sessions are refused."""
        return hashlib.sha256(self.parameters.digest + self.name.encode()).digest()[:16]

    @cached_property
    def common(self) -> Residues:
        """a, transformed (a uniform polynomial's values are uniform)."""
        return common(self.ring, self.digest)


@dataclass(frozen=True, kw_only=True, eq=False)
class PublicPart:
    """What one holder publishes: b = e - a s, transformed."""

    session: Session
    b: Residues = field(repr=False)

    @property
    def commitment(self) -> bytes:
        """Published before any part is: nobody can choose a part to cancel another's."""
        return hashlib.sha256(b"reticent threshold commitment 1:" + self.to_bytes()).digest()

    def to_bytes(self) -> bytes:
        """Magic, session digest, residues of 32 bits."""
        return _packed("key", self.session, self.b)

    @classmethod
    def from_bytes(cls, session: Session, data: bytes) -> PublicPart:
        """`EvidenceError` for anything that this session's holders don't send."""
        (b,) = _unpacked("key", session, data, 1)
        return cls(session=session, b=b)


@dataclass(frozen=True, kw_only=True, eq=False)
class JointKey:
    """The sum of all holders' public parts: everybody encrypts under it."""

    session: Session
    b: Residues = field(repr=False)
    notice: str = UNAUDITED

    def encrypt(self, values: Any) -> Ciphertext:
        """Whole numbers (at most the ring's degree, padded with zeros) as a ciphertext.

        `InputError` for values beyond the parameters' largest.
        """
        parameters, ring = self.session.parameters, self.session.ring
        u = ring.transform(ring.residues(ternary(ring.degree)))
        scaled = _scaled(_checked(values, parameters), parameters)
        e0 = ring.residues(errors(ring.degree))
        message = ring.transform(ring.add(e0, ring.residues_of_large(scaled)))
        e1 = ring.transform(ring.residues(errors(ring.degree)))
        return Ciphertext(
            session=self.session,
            c0=ring.add(ring.multiply(self.b, u), message),
            c1=ring.add(ring.multiply(self.session.common, u), e1),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Ciphertext:
    """(c0, c1), transformed; what it holds is known modulo the plain modulus."""

    session: Session
    c0: Residues = field(repr=False)
    c1: Residues = field(repr=False)
    notice: str = UNAUDITED

    @property
    def digest(self) -> bytes:
        """The name of exactly this ciphertext."""
        return hashlib.sha256(self.to_bytes()).digest()

    def to_bytes(self) -> bytes:
        """Magic, session digest, residues of 32 bits."""
        return _packed("ciphertext", self.session, self.c0, self.c1)

    @classmethod
    def from_bytes(cls, session: Session, data: bytes) -> Ciphertext:
        """`EvidenceError` for anything that this session's contributors don't send."""
        c0, c1 = _unpacked("ciphertext", session, data, 2)
        return cls(session=session, c0=c0, c1=c1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Share:
    """One holder's part of an opening: c1 s plus smudging, transformed, for one round only."""

    session: Session
    round: bytes
    h: Residues = field(repr=False)
    notice: str = UNAUDITED

    def to_bytes(self) -> bytes:
        """Magic, session digest, round, residues of 32 bits."""
        return _packed("share", self.session, self.h, extra=self.round)

    @classmethod
    def from_bytes(cls, session: Session, data: bytes) -> Share:
        """`EvidenceError` for anything that this session's holders don't send."""
        head = len(_MAGIC["share"]) + 16
        rounds = data[head : head + 32]
        (h,) = _unpacked("share", session, data, 1, extra=rounds)
        return cls(session=session, round=rounds, h=h)


@dataclass(frozen=True, kw_only=True, eq=False)
class Opened:
    """The sum of a round's contributions, (degree,) whole numbers."""

    values: NDArray[np.int64]
    contributors: int
    notice: str = UNAUDITED


class Holder:
    """A key holder: its secret exists here only, doesn't print, and has no way out."""

    def __init__(self, session: Session) -> None:
        ring = session.ring
        self.session = session
        self._s = ring.transform(ring.residues(ternary(ring.degree)))
        e = ring.transform(ring.residues(errors(ring.degree)))
        minus = ring.column - ring.multiply(session.common, self._s)
        self.public = PublicPart(session=session, b=ring.add(e, minus))
        self._opened: set[bytes] = set()

    def __repr__(self) -> str:
        return f"Holder(session={self.session.name!r}, openings={len(self._opened)}, {UNAUDITED})"

    def __reduce__(self) -> str | tuple[Any, ...]:
        raise TypeError("A holder's secret can't be copied or stored.")

    def share(self, contributions: Mapping[str, Ciphertext], *, mine: Ciphertext | None) -> Share:
        """This holder's part in opening the sum of all `contributions`, by contributor's name.

        `mine` is what this holder contributed itself, which must be among them unchanged; None
        for a holder who doesn't contribute. `EvidenceError` for missing, repeated or foreign
        contributions, `BudgetExhaustedError` for a round opened before and for one too many.
        """
        _complete(self.session, contributions)
        digests = {c.digest for c in contributions.values()}
        if len(digests) != len(contributions):
            raise EvidenceError(
                "Expected different contributions, got one twice. Refuse the round."
            )
        if mine is not None and mine.digest not in digests:
            raise EvidenceError(
                "Expected this holder's own contribution among those to open, unchanged. "
                "Refuse the round."
            )
        if digests & self._opened:
            raise BudgetExhaustedError(
                "Expected contributions that no opened round held. Encrypt afresh for each round."
            )
        allowed = self.session.parameters.openings
        if (len(self._opened) // len(contributions)) >= allowed:
            raise BudgetExhaustedError(
                f"Expected at most openings={allowed} under one key, all are used. "
                "Start a session with a new key."
            )
        self._opened |= digests
        ring = self.session.ring
        c1 = reduce(ring.add, (c.c1 for c in contributions.values()))
        hidden = ring.transform(smudging(ring, self.session.parameters.smudging_bits))
        return Share(
            session=self.session,
            round=round_of(contributions),
            h=ring.add(ring.multiply(c1, self._s), hidden),
        )


def joint_key(
    session: Session, parts: Mapping[str, PublicPart], commitments: Mapping[str, bytes]
) -> JointKey:
    """The joint key of all holders, by name; each part must be the one committed to.

    Every commitment must have been received before the first part was shown: that is what the
    caller promises. `EvidenceError` otherwise.
    """
    if len(parts) != session.parameters.holders or set(parts) != set(commitments):
        raise EvidenceError(
            f"Expected a part and a commitment from each of {session.parameters.holders} holders, "
            f"got parts={len(parts)}, commitments={len(commitments)}."
        )
    for name, part in parts.items():
        if part.session != session or not hmac.compare_digest(part.commitment, commitments[name]):
            raise EvidenceError(
                f"Expected the part that {name!r} committed to. Start again without this holder."
            )
    return JointKey(session=session, b=reduce(session.ring.add, (p.b for p in parts.values())))


def open_sum(contributions: Mapping[str, Ciphertext], shares: Mapping[str, Share]) -> Opened:
    """The sum of all contributions, with a share from every holder, by name.

    `EvidenceError` for missing shares or shares of another round.
    """
    session = next(iter(contributions.values())).session if contributions else None
    if session is None:
        raise EvidenceError("Expected contributions, got none.")
    _complete(session, contributions)
    parameters, ring = session.parameters, session.ring
    name = round_of(contributions)
    if len(shares) != parameters.holders or any(
        s.session != session or s.round != name for s in shares.values()
    ):
        raise EvidenceError(
            f"Expected a share of this round from each of {parameters.holders} holders, "
            f"got shares={len(shares)}. Ask all of them for this round's."
        )
    summed = reduce(ring.add, (c.c0 for c in contributions.values()))
    noisy = ring.lift(ring.invert(reduce(ring.add, (s.h for s in shares.values()), summed)))
    return Opened(values=_rounded(noisy, parameters), contributors=len(contributions))


def round_of(contributions: Mapping[str, Ciphertext]) -> bytes:
    """The name of a round: a hash of who contributed what."""
    made = hashlib.sha256(b"reticent threshold round 1:")
    for name in sorted(contributions):
        made.update(hashlib.sha256(name.encode()).digest() + contributions[name].digest)
    return made.digest()


def _complete(session: Session, contributions: Mapping[str, Ciphertext]) -> None:
    wanted = session.parameters.contributors
    foreign = [name for name, c in contributions.items() if c.session != session]
    if len(contributions) != wanted or foreign:
        raise EvidenceError(
            f"Expected contributors={wanted} of session {session.name!r}, got "
            f"{len(contributions)}, foreign={foreign}. A part of a sum is never opened."
        )


def _checked(values: Any, parameters: Parameters) -> NDArray[np.int64]:
    made = np.asarray(values)
    if made.ndim != 1 or made.dtype.kind not in "iu" or not 1 <= len(made) <= parameters.degree:
        raise InputError(
            f"Expected at most {parameters.degree} whole numbers, got shape={made.shape}, "
            f"dtype={made.dtype}."
        )
    made = made.astype(np.int64)
    if np.abs(made).max() > parameters.largest:
        raise InputError(
            f"Expected values to {parameters.largest} in size, got {np.abs(made).max()}. "
            "Choose parameters for larger sums."
        )
    return np.pad(made, (0, parameters.degree - len(made)))


def _scaled(values: NDArray[np.int64], parameters: Parameters) -> NDArray[Any]:
    """round(q m / t): at most 1/2 off, which the noise bound counts per contribution."""
    t, q = parameters.plain_modulus, parameters.modulus
    return np.asarray((2 * q * values.astype(object) + t) // (2 * t), dtype=object)


def _rounded(noisy: NDArray[Any], parameters: Parameters) -> NDArray[np.int64]:
    t, q = parameters.plain_modulus, parameters.modulus
    made = ((2 * t * noisy + q) // (2 * q)) % t
    return np.where(made > parameters.largest, made - t, made).astype(np.int64)


def _packed(kind: str, session: Session, *polynomials: Residues, extra: bytes = b"") -> bytes:
    body = b"".join(p.astype("<u4").tobytes() for p in polynomials)
    return _MAGIC[kind] + session.digest + extra + body


def _unpacked(
    kind: str, session: Session, data: bytes, count: int, extra: bytes = b""
) -> list[Residues]:
    head = _MAGIC[kind] + session.digest + extra
    shape = (count, len(session.parameters.primes), session.parameters.degree)
    if len(data) != len(head) + 4 * int(np.prod(shape)) or not data.startswith(head):
        raise EvidenceError(
            f"Expected a {kind} of session {session.name!r}, got {len(data)} other bytes. "
            "Ask the sender for this session's."
        )
    made = np.frombuffer(data, dtype="<u4", offset=len(head)).reshape(shape).astype(np.uint64)
    if (made >= session.ring.column).any():
        raise EvidenceError(f"Expected residues below their primes in a {kind}, got larger ones.")
    return list(made)
