"""Draws that protect people: ternary secrets, errors, smudging, from operating-system entropy."""

from __future__ import annotations

import hashlib
import os

import numpy as np
from numpy.typing import NDArray

from reticent.privacy.threshold.parameters import ERROR_BOUND, PRIME_BITS
from reticent.privacy.threshold.ring import Residues, Ring


def ternary(count: int) -> NDArray[np.int64]:
    """Uniform on -1, 0, 1: bytes below 252 modulo 3, others drawn again."""
    kept = np.empty(0, dtype=np.uint8)
    while len(kept) < count:
        drawn = np.frombuffer(os.urandom(count + 64), dtype=np.uint8)
        kept = np.concatenate([kept, drawn[drawn < 252]])
    return (kept[:count] % 3).astype(np.int64) - 1


def errors(count: int) -> NDArray[np.int64]:
    """Centred binomial: 21 bits minus 21 bits, standard deviation sqrt(21 / 2) = 3.24."""
    bits = np.unpackbits(np.frombuffer(os.urandom(6 * count), dtype=np.uint8)).reshape(count, 48)
    ones = bits[:, :ERROR_BOUND].sum(axis=1, dtype=np.int64)
    others = bits[:, ERROR_BOUND : 2 * ERROR_BOUND].sum(axis=1, dtype=np.int64)
    return np.asarray(ones - others, dtype=np.int64)


def smudging(ring: Ring, bits: int) -> Residues:
    """Uniform in [-2**bits, 2**bits) per coefficient, as residues: bits + 1 random bits each."""
    limbs, top = divmod(bits + 1, PRIME_BITS)
    words = np.frombuffer(os.urandom(4 * (limbs + 1) * ring.degree), dtype=np.uint32)
    words = words.reshape(limbs + 1, ring.degree) & np.uint32((1 << PRIME_BITS) - 1)
    made = np.zeros((len(ring.primes), ring.degree), dtype=np.uint64)
    base = np.uint64(1 << PRIME_BITS) % ring.column
    first = (words[0] & np.uint32((1 << top) - 1)).astype(np.uint64)
    made = made + first % ring.column
    for limb in words[1:]:
        made = (made * base + limb.astype(np.uint64)) % ring.column
    offset = np.array([(-(1 << bits)) % p for p in ring.primes], dtype=np.uint64)[:, None]
    return ring.add(made, offset)


def common(ring: Ring, label: bytes) -> Residues:
    """The public polynomial of a session, uniform and chosen by nobody: SHAKE-256 of its label."""
    made = np.empty((len(ring.primes), ring.degree), dtype=np.uint64)
    for index, prime in enumerate(ring.primes):
        head = b"reticent threshold common polynomial 1:" + index.to_bytes(2, "big") + label
        size = 4 * ring.degree * 2
        kept = np.empty(0, dtype=np.uint32)
        while len(kept) < ring.degree:
            stream = np.frombuffer(hashlib.shake_256(head).digest(size), dtype="<u4")
            stream = stream & np.uint32((1 << PRIME_BITS) - 1)
            kept, size = stream[stream < prime], 2 * size
        made[index] = kept[: ring.degree]
    return made
