"""Rings, moduli and noise bounds of the threshold scheme, at 128 bits of security."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from reticent.errors import ConfigError, UnsupportedError

MOST_BITS: Mapping[int, int] = {4096: 109, 8192: 218, 16384: 438}
"""Largest modulus per ring degree: 128 bits, classical, uniform ternary secrets.

Homomorphic Encryption Security Standard, Albrecht et al. 2018, table 1.
"""
PRIME_BITS = 30
ERROR_BOUND = 21
"""Errors are a centred binomial of 2 x 21 bits: standard deviation 3.24, never beyond 21."""
STATISTICAL_BITS = 40


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """What all parties agree on before the first key.

    `holders` share the key, `contributors` encrypt in each round, `openings` rounds at most are
    opened under one key, and no coefficient of a sum exceeds `largest` in size.
    `ConfigError` for values that leave the security table or have no room for noise.
    """

    holders: int
    contributors: int
    largest: int
    openings: int
    degree: int
    prime_count: int

    def __post_init__(self) -> None:
        counts = (self.holders, self.contributors, self.largest, self.openings)
        if self.holders < 2 or min(counts) < 1:
            raise ConfigError(f"Expected holders >= 2 and counts >= 1, got {self}.")
        most = MOST_BITS.get(self.degree)
        if most is None or not 1 <= self.prime_count <= most // PRIME_BITS:
            raise ConfigError(
                f"Expected a ring degree among {sorted(MOST_BITS)} and at most {most} bits at 128 "
                f"bits of security, got degree={self.degree}, bits={PRIME_BITS * self.prime_count}."
            )
        if not self.fits:
            raise ConfigError(
                f"Expected room for {self.noise_bound.bit_length()} bits of noise, got a modulus "
                f"of {self.modulus.bit_length()} bits for values to {self.largest}. "
                "Use `choose`, fewer openings or fewer parties."
            )

    @cached_property
    def primes(self) -> tuple[int, ...]:
        """The largest primes below 2**30 that are 1 modulo twice the degree."""
        found: list[int] = []
        candidate = (1 << PRIME_BITS) - 2 * self.degree + 1
        while len(found) < self.prime_count:
            if _is_prime(candidate):
                found.append(candidate)
            candidate -= 2 * self.degree
        return tuple(found)

    @cached_property
    def modulus(self) -> int:
        """The product of the primes."""
        return math.prod(self.primes)

    @property
    def plain_modulus(self) -> int:
        """Sums are known modulo this, centred on zero."""
        return 2 * self.largest + 1

    @property
    def ciphertext_noise(self) -> int:
        """Largest noise of a sum of ciphertexts: u e + e0 + e1 s and rounding, per contribution.

        A product of polynomials has `degree` terms; the joint secret and error are sums over
        holders.
        """
        return self.contributors * (ERROR_BOUND * (2 * self.degree * self.holders + 1) + 1)

    @property
    def smudging_bits(self) -> int:
        """k: each share is hidden by a uniform draw from [-2**k, 2**k) per coefficient."""
        needed = self.openings * self.degree * self.ciphertext_noise
        return (needed - 1).bit_length() + STATISTICAL_BITS - 1

    @property
    def noise_bound(self) -> int:
        """Largest noise of an opened sum."""
        return self.ciphertext_noise + self.holders * (1 << self.smudging_bits)

    @property
    def fits(self) -> bool:
        """Every sum in range opens exactly, always."""
        return 2 * self.plain_modulus * self.noise_bound < self.modulus

    @property
    def digest(self) -> bytes:
        """16 bytes that name these parameters."""
        text = (
            f"{self.holders},{self.contributors},{self.largest},{self.openings},"
            f"{self.degree},{self.primes}"
        )
        return hashlib.sha256(b"reticent threshold parameters 1:" + text.encode()).digest()[:16]


def choose(*, holders: int, contributors: int, largest: int, openings: int) -> Parameters:
    """The smallest ring and modulus with room for all of that; `UnsupportedError` for none."""
    for degree, most in MOST_BITS.items():
        for count in range(1, most // PRIME_BITS + 1):
            try:
                return Parameters(
                    holders=holders,
                    contributors=contributors,
                    largest=largest,
                    openings=openings,
                    degree=degree,
                    prime_count=count,
                )
            except ConfigError:
                if min(holders - 1, contributors, largest, openings) < 1:
                    raise
    raise UnsupportedError(
        f"Never: no ring in the table has room for {holders=}, {contributors=}, {largest=}, "
        f"{openings=}. Ask for fewer openings under one key, or smaller values."
    )


def _is_prime(n: int) -> bool:
    """Miller and Rabin with bases that decide every n below 3.2e9 (Jaeschke 1993)."""
    odd, twos = n - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in (2, 3, 5, 7):
        power = pow(base, odd, n)
        if power in (1, n - 1):
            continue
        for _ in range(twos - 1):
            power = power * power % n
            if power == n - 1:
                break
        else:
            return False
    return True
