"""Encryption parameters: what a ring of a given size may hold at 128 bits of security.

The table is that of the Homomorphic Encryption Security Standard (Albrecht et al. 2018, table 1,
classical attacks, uniform ternary secrets). It is enforced here besides the library's own check.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from reticent.errors import ConfigError

MOST_BITS: Mapping[int, int] = {4096: 109, 8192: 218, 16384: 438, 32768: 881}
ASSUMPTION = "ring learning with errors, uniform ternary secrets, HE standard 2018"
# The library's own limits for one prime; smaller ones aren't enough for every ring.
FEWEST_SCALE_BITS = 16
FEWEST_PRIME_BITS, MOST_PRIME_BITS = 20, 60


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """A ring of degree `degree` and the sizes of its primes in bits, lowest first, special last.

    Fresh ciphertexts hold numbers times 2**`scale_bits`. Raises `ConfigError` for a chain that
    the table doesn't allow.
    """

    degree: int
    prime_bits: tuple[int, ...]
    scale_bits: int

    def __post_init__(self) -> None:
        most = MOST_BITS.get(self.degree)
        if most is None:
            raise ConfigError(f"Expected a ring degree among {sorted(MOST_BITS)}, got {self}.")
        fits = all(FEWEST_PRIME_BITS <= bits <= MOST_PRIME_BITS for bits in self.prime_bits)
        scale = FEWEST_SCALE_BITS <= self.scale_bits <= MOST_PRIME_BITS
        if self.bits > most or self.levels < 1 or not (fits and scale):
            raise ConfigError(
                f"Expected at most {most} bits for degree={self.degree} at 128 bits of security, "
                f"3 primes or more of {FEWEST_PRIME_BITS} to {MOST_PRIME_BITS} bits, and "
                f"scale_bits in [{FEWEST_SCALE_BITS}, {MOST_PRIME_BITS}], got bits={self.bits}, "
                f"prime_bits={self.prime_bits}, scale_bits={self.scale_bits}."
            )

    @property
    def levels(self) -> int:
        """How often a fresh ciphertext can be divided by a prime."""
        return len(self.prime_bits) - 2

    @property
    def bits(self) -> int:
        """The size of the whole modulus, the special prime included, as security counts it."""
        return sum(self.prime_bits)

    @property
    def slots(self) -> int:
        """Numbers per ciphertext."""
        return self.degree // 2

    @property
    def ciphertext_bytes(self) -> int:
        """A fresh ciphertext: two polynomials over all primes but the special one."""
        return 2 * self.degree * (self.levels + 1) * 8

    def key_bytes(self, rotations: int) -> int:
        """Rotation keys, relinearisation keys and the public key on the wire."""
        primes = self.levels + 2
        pair = 2 * self.degree * primes * 8
        # The library lists every rotation, also those that there is no key for.
        return pair * ((primes - 1) * (rotations + 1) + 1) + 8 * self.degree


def uniform(
    degree: int, *, levels: int, scale_bits: int, outer_bits: int = MOST_PRIME_BITS
) -> Parameters:
    """`levels` primes of the scale's size between two larger ones."""
    sizes = (outer_bits, *[scale_bits] * levels, outer_bits)
    return Parameters(degree=degree, prime_bits=sizes, scale_bits=scale_bits)
