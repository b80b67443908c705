"""Exact arithmetic in Z_q[X] / (X^N + 1), q a product of 30-bit primes, on residues.

A polynomial is an array (primes, N) of residues. Products of two residues stay below 2**60, so
unsigned 64-bit arithmetic is exact. The transform takes polynomials to their values at the odd
powers of a 2N-th root of one, in bit-reversed order, where products are elementwise
(Longa & Naehrig 2016, algorithms 1 and 2).
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Residues = NDArray[np.uint64]


class Ring:
    """The ring of one degree and one list of primes."""

    def __init__(self, degree: int, primes: tuple[int, ...]) -> None:
        self.degree, self.primes = degree, primes
        self.modulus = math.prod(primes)
        self.column = np.array(primes, dtype=np.uint64)[:, None]
        roots = [_root(degree, prime) for prime in primes]
        order = _reversed_bits(degree)
        self._forward = np.stack(
            [_powers(r, p, degree)[order] for r, p in zip(roots, primes, strict=True)]
        )
        inverse = [pow(r, -1, p) for r, p in zip(roots, primes, strict=True)]
        self._backward = np.stack(
            [_powers(r, p, degree)[order] for r, p in zip(inverse, primes, strict=True)]
        )
        self._shrink = np.array([pow(degree, -1, p) for p in primes], dtype=np.uint64)[:, None]
        self._parts = [self.modulus // p for p in primes]
        self._lifts = [
            part * pow(part, -1, p) % self.modulus
            for part, p in zip(self._parts, primes, strict=True)
        ]

    def residues(self, values: NDArray[np.int64]) -> Residues:
        """Signed coefficients (N,) as residues."""
        return np.mod(values[None], self.column.astype(np.int64)).astype(np.uint64)

    def residues_of_large(self, values: NDArray[Any]) -> Residues:
        """Python integers (N,), dtype object, as residues."""
        return np.stack([(values % p).astype(np.uint64) for p in self.primes])

    def lift(self, x: Residues) -> NDArray[Any]:
        """Coefficients as Python integers in (-q/2, q/2] (Chinese remainders)."""
        summed = sum(row.astype(object) * lift for row, lift in zip(x, self._lifts, strict=True))
        made = np.asarray(summed, dtype=object) % self.modulus
        return np.where(made > self.modulus // 2, made - self.modulus, made)

    def add(self, left: Residues, right: Residues) -> Residues:
        """left + right."""
        return (left + right) % self.column

    def multiply(self, left: Residues, right: Residues) -> Residues:
        """Elementwise: the product of polynomials where both are transformed."""
        return left * right % self.column

    def transform(self, x: Residues) -> Residues:
        """Coefficients to values."""
        made, count = x, len(self.primes)
        column = self.column[:, :, None]
        groups, half = 1, self.degree // 2
        while half >= 1:
            blocks = made.reshape(count, groups, 2, half)
            low = blocks[:, :, 0]
            high = blocks[:, :, 1] * self._forward[:, groups : 2 * groups, None] % column
            made = np.stack([(low + high) % column, (low + column - high) % column], axis=2)
            groups, half = 2 * groups, half // 2
        return made.reshape(count, self.degree)

    def invert(self, x: Residues) -> Residues:
        """Values to coefficients."""
        made, count = x, len(self.primes)
        column = self.column[:, :, None]
        groups, half = self.degree // 2, 1
        while groups >= 1:
            blocks = made.reshape(count, groups, 2, half)
            low, high = blocks[:, :, 0], blocks[:, :, 1]
            turned = (low + column - high) * self._backward[:, groups : 2 * groups, None] % column
            made = np.stack([(low + high) % column, turned], axis=2)
            groups, half = groups // 2, 2 * half
        return made.reshape(count, self.degree) * self._shrink % self.column


@lru_cache(maxsize=8)
def ring(degree: int, primes: tuple[int, ...]) -> Ring:
    """The ring, made once."""
    return Ring(degree, primes)


def _root(degree: int, prime: int) -> int:
    """A primitive 2N-th root of one: its N-th power is -1."""
    for base in range(2, prime):
        root = pow(base, (prime - 1) // (2 * degree), prime)
        if pow(root, degree, prime) == prime - 1:
            return root
    raise AssertionError("A prime that is 1 modulo 2N has such a root.")


def _powers(root: int, prime: int, count: int) -> Residues:
    made = np.empty(count, dtype=np.uint64)
    power = 1
    for index in range(count):
        made[index] = power
        power = power * root % prime
    return made


def _reversed_bits(count: int) -> NDArray[np.int64]:
    made = np.zeros(count, dtype=np.int64)
    for bit in range(count.bit_length() - 1):
        made |= ((np.arange(count) >> bit) & 1) << (count.bit_length() - 2 - bit)
    return made
