"""Scales and primes of a network's products: which division each matrix pays for.

A square's product is not divided: the matrix behind it multiplies it further, and one division
by a larger prime takes both back. So a network of m matrices spends m primes at most. Where
inputs aren't rotated, the first matrix isn't divided either: its product is large enough
to be squared as it is, and the network spends m - 1. Fewer primes make every operation cheaper.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from reticent.inference.ckks.flooding import FLOODED_BITS, FLOODED_WEIGHT_BITS
from reticent.inference.ckks.parameters import (
    FEWEST_PRIME_BITS,
    MOST_BITS,
    MOST_PRIME_BITS,
    Parameters,
)

# Room above the scale in the lowest prime: for the answers, and for masks of 29 bits, which
# spread over the coefficients and are smaller there by the root of three times the ring degree.
HEADROOM_BITS = 26


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One matrix: weights at scale 2**`weight_bits`, made at `level`; `divides` by primes."""

    level: int
    weight_bits: int
    out_bits: int
    divides: int

    @property
    def left(self) -> int:
        """The level afterwards."""
        return self.level - self.divides


@dataclass(frozen=True, kw_only=True)
class Chain:
    """The ring's parameters and a stage for each matrix."""

    parameters: Parameters
    stages: tuple[Stage, ...]


def chains(matrices: int, degree: int, *, merged: bool, whole: bool) -> Iterator[Chain]:
    """Chains for so many matrices; `whole` weights aren't encoded, and need fewer bits."""
    if not merged:
        for scale, weights in ((32, 20), (28, 18), (26, 16)) if whole else _DIVIDED:
            yield from _chain(degree, matrices, scale, weights, weights, scale, merged=False)
        return
    for inputs, first, weights in _WHOLE if whole else _MERGED:
        fitting = (
            made
            for scale in range(MOST_PRIME_BITS - HEADROOM_BITS, 25, -1)
            for made in _chain(degree, matrices, inputs, first, weights, scale, merged=True)
        )
        yield from itertools.islice(fitting, 1)


# Bits of inputs, of the first matrix, of the others.
_MERGED = ((21, 17, 18), (20, 18, 18), (19, 19, 18), (19, 18, 18), (18, 18, 18), (19, 17, 17))
_WHOLE = ((22, 16, 18), (21, 16, 16), (20, 15, 15))
# Bits of every value, of every weight.
_DIVIDED = ((32, 26), (30, 24), (28, 22), (26, 20))


def _chain(
    degree: int, matrices: int, inputs: int, first: int, weights: int, scale: int, *, merged: bool
) -> Iterator[Chain]:
    """The one chain of these sizes, if the ring holds it."""
    level = matrices - merged
    stages, primes, bits = [], [], inputs
    for index in range(matrices):
        taken = first if index == 0 else weights
        bits = (bits if index == 0 else 2 * bits) + taken
        divides = int(not (merged and index == 0))
        if divides:
            primes.append(max(FEWEST_PRIME_BITS, bits - scale))
            taken += primes[-1] - (bits - scale)
            bits = scale
        stages.append(Stage(level=level, weight_bits=taken, out_bits=bits, divides=divides))
        level -= divides
    data = [scale + HEADROOM_BITS, *primes[::-1]]
    special = min(MOST_PRIME_BITS, MOST_BITS[degree] - sum(data))
    # Keys' errors are divided by the special prime. Large scales bear a larger share of them.
    if max(data) > MOST_PRIME_BITS or special < max(data[:-1] if merged else data):
        return
    sizes = (*data, special)
    parameters = Parameters(degree=degree, prime_bits=sizes, scale_bits=inputs)
    yield Chain(parameters=parameters, stages=tuple(stages))


def flooded_chain(matrices: int, degree: int, reply_bits: int) -> Chain | None:
    """A chain that leaves two primes of so many bits to the reply; None where it is too long.

    See `flooding` for its scale.
    """
    scale, weights = FLOODED_BITS, FLOODED_WEIGHT_BITS
    each = max(FEWEST_PRIME_BITS, -(-reply_bits // 2))
    half = (scale + weights) // 2
    sizes = (*[each] * 2, *[half] * (2 * (matrices - 1)), weights, MOST_PRIME_BITS)
    if sum(sizes) > MOST_BITS[degree] or each > MOST_PRIME_BITS:
        return None
    level, inputs = len(sizes) - 2, MOST_PRIME_BITS
    taken = scale + weights - inputs
    stages = [Stage(level=level, weight_bits=taken, out_bits=scale, divides=1)]
    for index in range(1, matrices):
        at = level + 1 - 2 * index
        stages.append(Stage(level=at, weight_bits=weights, out_bits=scale, divides=2))
    parameters = Parameters(degree=degree, prime_bits=sizes, scale_bits=inputs)
    return Chain(parameters=parameters, stages=tuple(stages))
