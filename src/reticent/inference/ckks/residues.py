"""Exact sums of ciphertexts with whole-number weights, as matrix products of their residues.

A ciphertext is an array of residues modulo each prime of its chain; multiplying it by a whole
number and adding ciphertexts acts on each residue alone. So a matrix of weights times a vector of
ciphertexts is one modular matrix product per prime. Residues are split into limbs, and weights
too where they are large, so that float64 products and sums stay below 2**53 and are exact:
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
_EXACT_BITS, _WIDEST = 53, 30
# Residues that are multiplied at a time: what a core's cache holds.
BLOCK = 1024
# The share of inputs that rows of one product have in common.
_ALIKE = 0.9


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How ciphertexts of one level lie in memory: 2 polynomials of `degree` for each prime."""

    degree: int
    primes: tuple[int, ...]

    @property
    def values(self) -> int:
        """Residues in one ciphertext."""
        return 2 * self.degree * len(self.primes)

    def read(self, data: bytes | memoryview) -> tuple[bytes, Residues]:
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
        return bytes(data[:head]), made


def combine(weights: NDArray[np.int64], values: Sequence[Residues], shape: Shape) -> Residues:
    """`weights` (out, in) times ciphertexts `values`, each (2, primes, degree): (out, ...).

    Raises `UnsupportedError` for weights whose sums would not be exact.
    """
    parts, limb = _parts(weights)
    made = np.empty((len(weights), *values[0].shape), dtype=np.uint64)
    for index, prime in enumerate(shape.primes):
        for half in range(2):
            for at in range(0, shape.degree, BLOCK):
                here = slice(at, at + BLOCK)
                plane = np.stack([value[half, index, here] for value in values])
                made[:, half, index, here] = _product(parts, plane, prime, limb)
    return made


def groups(weights: NDArray[np.int64]) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Rows that use nearly the same inputs, with all of those: a convolution's filters at a place.

    Rows of zeros are a group of their own, without inputs.
    """
    found: list[tuple[list[int], NDArray[np.bool_]]] = []
    for row, used in enumerate(weights != 0):
        for rows, inputs in found:
            common = int((used & inputs).sum())
            if common >= _ALIKE * max(used.sum(), inputs.sum()):
                rows.append(row)
                inputs |= used
                break
        else:
            found.append(([row], used.copy()))
    return [(np.array(rows), np.flatnonzero(inputs)) for rows, inputs in found]


def _parts(weights: NDArray[np.int64]) -> tuple[list[NDArray[np.float64]], int]:
    """The weights as one number or as two limbs, low first; the bits that residues may have."""
    inputs = weights.shape[1]
    room = _room(int(np.abs(weights).max(initial=0)).bit_length(), inputs)
    if room >= LIMB:
        return [weights.astype(np.float64)], room
    low = ((weights + 2 ** (_WEIGHT_LIMB - 1)) & (2**_WEIGHT_LIMB - 1)) - 2 ** (_WEIGHT_LIMB - 1)
    high = (weights - low) >> _WEIGHT_LIMB
    largest = max(int(np.abs(low).max(initial=0)), int(np.abs(high).max(initial=0)))
    room = _room(largest.bit_length(), inputs)
    if room < LIMB:
        raise UnsupportedError(
            f"Never exactly: weights of up to {int(np.abs(weights).max())} over "
            f"{inputs} inputs. Scale the layer down."
        )
    return [low.astype(np.float64), high.astype(np.float64)], room


def _room(weight_bits: int, inputs: int) -> int:
    """Bits that residues may have so that sums of so many products stay exact."""
    return min(_WIDEST, _EXACT_BITS - weight_bits - inputs.bit_length())


def _product(
    parts: list[NDArray[np.float64]], plane: Residues, prime: int, limb: int
) -> NDArray[np.int64]:
    """One prime's share, by Horner's rule over the limbs' places."""
    limbs = -(-prime.bit_length() // limb)
    limb = -(-prime.bit_length() // limbs)
    sums: dict[int, NDArray[np.int64]] = {}
    for index in range(limbs):
        digit = (plane >> np.uint64(limb * index)) & np.uint64(2**limb - 1)
        digits = digit.astype(np.float64)
        for place, part in enumerate(parts):
            at, found = limb * index + _WEIGHT_LIMB * place, (part @ digits).astype(np.int64)
            sums[at] = sums[at] + found if at in sums else found
    places = sorted(sums, reverse=True)
    total = sums[places[0]]
    for above, place in itertools.pairwise(places):
        total = _shifted(total, above - place, prime) + sums[place]
    total = _shifted(total, places[-1], prime)
    total += (total >> 63) & prime
    total -= prime
    total += (total >> 63) & prime
    return total


def _shifted(values: NDArray[np.int64], bits: int, prime: int) -> NDArray[np.int64]:
    """values * 2**bits modulo the prime, within (-prime, 2 prime).

    The quotient is estimated in floating point, to one; products wrap around 2**64, and
    their difference is small again.
    """
    quotient = np.floor(values * (2.0**bits / prime)).astype(np.int64)
    made: NDArray[np.int64] = (values << bits) - quotient * prime
    return made
