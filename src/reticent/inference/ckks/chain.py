"""Scales and primes of a network's products: which division each matrix pays for.

A square's product is not divided: the matrix behind it multiplies it further, and one division
by a larger prime takes both back. So a network of m matrices spends m primes at most. Where
inputs aren't rotated, the first matrix isn't divided either: its product is large enough
to be squared as it is, and the network spends m - 1. Fewer primes make every operation cheaper.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from reticent.inference.ckks.parameters import (
    FEWEST_PRIME_BITS,
    MOST_BITS,
    MOST_PRIME_BITS,
    Parameters,
)

# Room above the scale in the lowest prime: for the answers, and for masks of 29 bits, which
# spread over the coefficients and are smaller there by the root of three times the ring degree.
HEADROOM_BITS = 26
# Bits of the scale of values under a flood, the most precise first: those for which two primes take
# a product back, and those for which three do.
FLOODED_BITS = range(84, 59, -2), range(120, 84, -2)
# Of weights: what is left in a slot that should hold nothing is their errors' share.
FLOODED_WEIGHT_BITS = 36
# Of whole weights in a flooded batch, where every slot is an answer.
WHOLE_WEIGHT_BITS = 18


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
    for inputs, first, weights, last, scales in _sizes(merged=merged, whole=whole):
        fitting = (
            made
            for scale in scales
            for made in _chain(
                degree,
                inputs,
                [first, *[weights] * (matrices - 2), last][-matrices:],
                scale,
                merged,
            )
        )
        # Smaller scales leave more to the special prime, and fewer to answers.
        yield from itertools.islice(fitting, 3)


def _sizes(*, merged: bool, whole: bool) -> Iterator[tuple[int, int, int, int, range]]:
    """Bits of inputs, of the first, middle and last weights, and of values, the most first."""
    if not merged:
        for scale in (32, 28, 26) if whole else range(34, 25, -1):
            for weights in (scale // 2 + 4,) if whole else range(18, 29):
                yield scale, weights, weights, weights, range(scale, scale + 1)
        return
    scales = range(MOST_PRIME_BITS - HEADROOM_BITS, 25, -1)
    if whole:
        for inputs, first, weights in ((22, 16, 18), (21, 16, 16), (20, 15, 15)):
            yield inputs, first, weights, weights, scales
        return
    grid = range(17, 23), range(14, 20), range(15, 21), range(2)
    for inputs, first, weights, more in itertools.product(*grid):
        yield inputs, first, weights, weights + more, scales


def _chain(
    degree: int, inputs: int, weights: list[int], scale: int, merged: bool
) -> Iterator[Chain]:
    """The one chain of these sizes, if the ring holds it."""
    level = len(weights) - merged
    stages, primes, bits = [], [], inputs
    for index, size in enumerate(weights):
        taken = size
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


def flooded_chain(matrices: int, degree: int, *, scale: int, reply_bits: int) -> Chain | None:
    """A chain with values at 2**`scale` that leaves primes of so many bits in all to the reply;
    None where it is too long. See `flooding`.
    """
    weights = FLOODED_WEIGHT_BITS
    pieces = -(-(scale + weights) // MOST_PRIME_BITS)
    each = max(FEWEST_PRIME_BITS, -(-reply_bits // pieces))
    products = [_parts(scale + weights, pieces)] * (matrices - 1)
    data = [each] * pieces + [bits for product in products for bits in product] + [weights]
    sizes = (*data, MOST_PRIME_BITS)
    if sum(sizes) > MOST_BITS[degree] or each > MOST_PRIME_BITS:
        return None
    level, inputs = len(sizes) - 2, MOST_PRIME_BITS
    taken = scale + weights - inputs
    stages = [Stage(level=level, weight_bits=taken, out_bits=scale, divides=1)]
    for index in range(matrices - 1):
        at = level - 1 - pieces * index
        stages.append(Stage(level=at, weight_bits=weights, out_bits=scale, divides=pieces))
    parameters = Parameters(degree=degree, prime_bits=sizes, scale_bits=inputs)
    return Chain(parameters=parameters, stages=tuple(stages))


def flooded_batch_chain(matrices: int, degree: int, *, scale: int) -> Chain | None:
    """The same where weights are whole numbers and nothing rotates; None where it is too long.

    The first product isn't divided: it is at scale already.
    """
    weights, inputs = WHOLE_WEIGHT_BITS, MOST_PRIME_BITS
    bits = inputs + weights
    stages, primes = [Stage(level=0, weight_bits=weights, out_bits=bits, divides=0)], []
    for _ in range(matrices - 1):
        bits = 2 * bits + weights - scale
        pieces = -(-bits // MOST_PRIME_BITS)
        primes += _parts(bits, pieces)
        stages.append(Stage(level=0, weight_bits=weights, out_bits=scale, divides=pieces))
        bits = scale
    reply = _parts(stages[-1].out_bits + HEADROOM_BITS, 2)
    sizes = (*reply, *primes[::-1], MOST_PRIME_BITS)
    if sum(sizes) > MOST_BITS[degree] or max(sizes) > MOST_PRIME_BITS:
        return None
    level, made = len(sizes) - 2, []
    for stage in stages:
        made.append(dataclasses.replace(stage, level=level))
        level -= stage.divides
    parameters = Parameters(degree=degree, prime_bits=sizes, scale_bits=inputs)
    return Chain(parameters=parameters, stages=tuple(made))


def _parts(bits: int, pieces: int) -> list[int]:
    """`bits` as that many sizes of primes, as equal as they can be."""
    return [bits // pieces + (index < bits % pieces) for index in range(pieces)]
