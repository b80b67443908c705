"""Encryption parameters: what a ring of a given size may hold at 128 bits of security.

The table is that of the Homomorphic Encryption Security Standard (Albrecht et al. 2018, table 1,
classical attacks, uniform ternary secrets). It is enforced here besides the library's own check.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from reticent.errors import ConfigError, UnsupportedError

MOST_BITS: Mapping[int, int] = {4096: 109, 8192: 218, 16384: 438, 32768: 881}
ASSUMPTION = "ring learning with errors, uniform ternary secrets, HE standard 2018"
# The lowest prime holds the answer and its mask; the special prime exceeds every other.
_OUTER_BITS = 60


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """A ring of degree `degree` and its chain of primes, lowest first, the special prime last.

    `scale_bits` is the size of each prime between; a product is divided by one of them, so
    there are as many as products can follow each other. Raises `ConfigError` for a chain that
    the table doesn't allow.
    """

    degree: int
    levels: int
    scale_bits: int

    def __post_init__(self) -> None:
        most = MOST_BITS.get(self.degree)
        if most is None:
            raise ConfigError(f"Expected a ring degree among {sorted(MOST_BITS)}, got {self}.")
        if self.bits > most or self.levels < 1 or not 20 <= self.scale_bits <= _OUTER_BITS:
            raise ConfigError(
                f"Expected at most {most} bits for degree={self.degree} at 128 bits of security, "
                f"levels >= 1 and scale_bits in [20, {_OUTER_BITS}], got bits={self.bits}, "
                f"levels={self.levels}, scale_bits={self.scale_bits}."
            )

    @property
    def prime_bits(self) -> list[int]:
        """The sizes of all primes."""
        return [_OUTER_BITS, *[self.scale_bits] * self.levels, _OUTER_BITS]

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
        return pair * ((primes - 1) * (rotations + 1) + 1)


def smallest(levels: int, *, values: int, scale_bits: int = 30, layer: str = "") -> Parameters:
    """The smallest ring with room for `values` numbers and `levels` products in a row.

    Raises `UnsupportedError` that names `layer` and what one level costs where none is enough.
    """
    bits = 2 * _OUTER_BITS + levels * scale_bits
    for degree, most in MOST_BITS.items():
        if bits <= most and values <= degree // 2:
            return Parameters(degree=degree, levels=levels, scale_bits=scale_bits)
    largest = max(MOST_BITS)
    raise UnsupportedError(
        f"Never in one ring: layer {layer!r} brings the network to levels={levels} "
        f"({bits} bits) and {values} values, the largest ring ({largest}) holds "
        f"{MOST_BITS[largest]} bits and {largest // 2} values. Use fewer layers, or encrypt "
        "only the head (sealed split)."
    )
