"""Exact sums of ciphertexts with whole-number weights, as matrix products of their residues.

A ciphertext is an array of residues modulo each prime of its chain; multiplying it by a whole
number and adding ciphertexts acts on each residue alone. So a matrix of weights times a vector of
ciphertexts is one modular matrix product per prime. Residues are split into limbs of 15 bits and
weights into two of 16, so that float64 products and sums of them stay below 2**53 and are exact:
the fast matrix product of plain numbers computes them. Nothing is approximated; the result is bit
for bit what the library's scalar products and sums give.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reticent.errors import DataError, UnsupportedError

Residues = NDArray[np.uint64]
LIMB, _WEIGHT_LIMB = 15, 16
_EXACT = 2.0**53


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How ciphertexts of one level lie in memory: 2 polynomials of `degree` for each prime."""

    degree: int
    primes: tuple[int, ...]

    @property
    def values(self) -> int:
        """Residues in one ciphertext."""
        return 2 * self.degree * len(self.primes)

    def read(self, data: bytes) -> tuple[bytes, Residues]:
        """The library's header, and the residues (2, primes, degree), of serialised ciphertext.

        Raises `DataError` where they aren't residues of these primes.
        """
        head = len(data) - 8 * self.values
        if head <= 0:
            raise DataError(
                f"Expected over {8 * self.values} bytes of ciphertext, got {len(data)}."
            )
        found = np.frombuffer(data, dtype="<u8", offset=head)
        made = found.reshape(2, len(self.primes), self.degree)
        limits = np.array(self.primes, dtype=np.uint64)[None, :, None]
        if not (made < limits).all():
            raise DataError(
                "Expected residues below their primes: the library lays ciphertexts out otherwise "
                "than this version knows. Install the pinned seal-python."
            )
        return data[:head], made


def combine(weights: NDArray[np.int64], values: Sequence[Residues], shape: Shape) -> Residues:
    """`weights` (out, in) times ciphertexts `values`, each (2, primes, degree): (out, ...).

    Raises `UnsupportedError` for weights whose sums would not be exact.
    """
    low = ((weights + 2 ** (_WEIGHT_LIMB - 1)) & (2**_WEIGHT_LIMB - 1)) - 2 ** (_WEIGHT_LIMB - 1)
    high = (weights - low) >> _WEIGHT_LIMB
    largest = max(int(np.abs(low).max(initial=0)), int(np.abs(high).max(initial=0)))
    if float(largest) * 2.0**LIMB * weights.shape[1] >= _EXACT:
        raise UnsupportedError(
            f"Never exactly: weights of up to {int(np.abs(weights).max())} over "
            f"{weights.shape[1]} inputs. Scale the layer down."
        )
    parts = [low.astype(np.float64), high.astype(np.float64)]
    if not high.any():
        parts.pop()
    made = np.empty((len(weights), *values[0].shape), dtype=np.uint64)
    for index, prime in enumerate(shape.primes):
        plane = np.stack([value[:, index].reshape(-1) for value in values])
        made[:, :, index] = _product(parts, plane, prime).reshape(len(weights), 2, shape.degree)
    return made


def _product(parts: list[NDArray[np.float64]], plane: Residues, prime: int) -> Residues:
    """One prime's share, by Horner's rule over the limbs' places."""
    limbs = -(-prime.bit_length() // LIMB)
    sums: dict[int, NDArray[np.int64]] = {}
    for limb in range(limbs):
        digit = (plane >> np.uint64(LIMB * limb)) & np.uint64(2**LIMB - 1)
        digits = digit.astype(np.float64)
        for place, part in enumerate(parts):
            sums[LIMB * limb + _WEIGHT_LIMB * place] = np.rint(part @ digits).astype(np.int64)
    places = sorted(sums, reverse=True)
    total = sums[places[0]] % prime
    for above, place in itertools.pairwise(places):
        total = (_shifted(total, above - place, prime) + sums[place]) % prime
    return _shifted(total, places[-1], prime).astype(np.uint64)


def weight_limbs(largest: float) -> int:
    """Limbs that whole weights of at most this size are split into."""
    return 1 if largest < 2 ** (_WEIGHT_LIMB - 1) else 2


def passes_of(bits: int) -> float:
    """How often `combine` goes over each result modulo a prime of so many bits."""
    places = 2 * -(-bits // LIMB)
    shift = LIMB * (places // 2 - 1) + _WEIGHT_LIMB
    return 3 * places + 1.5 * -(-shift // max(1, 62 - bits))


def _shifted(values: NDArray[np.int64], bits: int, prime: int) -> NDArray[np.int64]:
    """values * 2**bits modulo the prime, in steps that int64 holds."""
    step = max(1, 62 - prime.bit_length())
    while bits > 0:
        now = min(bits, step)
        values = (values << now) % prime
        bits -= now
    return values
