"""The cheapest chain whose answers are precise enough in a ring."""

from __future__ import annotations

import math

from reticent.inference.ckks.chain import Chain, chains, flooded_chain
from reticent.inference.ckks.flooding import FLOODED_BITS, Flood, flood, room
from reticent.inference.ckks.lowering import Lowered
from reticent.inference.ckks.noise import Error, content, simulated_error
from reticent.inference.ckks.packing import Layer
from reticent.inference.ckks.parameters import MOST_BITS

# The largest error that noise may make in an answer, by the answers' size.
TOLERANCE = 2.0**-10
FLOODED_TOLERANCE = 2.0**-5


def best(
    lowered: Lowered, layers: tuple[Layer, ...] | None, degree: int, *, bound: float
) -> tuple[Chain, Error] | None:
    """The chain with the fewest primes that is precise enough in this ring, and its error.

    The most precise of as many primes. None where there is none. For `layers` see
    `simulated_error`.
    """
    turns = layers is not None and layers[0].rotations > 1
    for merged in (True, False):
        if merged and (turns or not lowered.squares):
            continue  # too small a scale to be rotated at
        found = [
            (simulated_error(lowered, layers, chain, bound=bound), chain)
            for chain in chains(len(lowered.matrices), degree, merged=merged, whole=layers is None)
        ]
        if found:
            error, chain = min(found, key=lambda one: one[0].relative)
            if error.relative <= TOLERANCE:
                return chain, error
    return None


def flooded_best(
    lowered: Lowered, layers: tuple[Layer, ...], degree: int, *, bound: float, bits: int
) -> tuple[Chain, Error, Flood] | None:
    """The chain whose reply holds its masks, with the answers' error and the flood.

    None where answers would err by more than `FLOODED_TOLERANCE` of their size.
    """
    held = content(lowered, layers[-1], degree, bound=bound)
    answers = len(lowered.matrices[-1].weight)
    # The reply's size follows from the masks alone, the flood from the chain's noise.
    masks = flood(bits, degree=degree, answers=answers, error=0.0, content=held)
    chain = flooded_chain(
        len(lowered.matrices), degree, math.ceil(FLOODED_BITS + room(masks, degree))
    )
    if chain is None:
        return None
    error = simulated_error(lowered, layers, chain, bound=bound, own=True).largest
    made = flood(bits, degree=degree, answers=answers, error=error, content=held)
    whole = simulated_error(lowered, layers, chain, bound=bound)
    largest = whole.largest + 4 * made.spread
    relative = largest * whole.relative / whole.largest
    if relative > FLOODED_TOLERANCE:
        return None
    return chain, Error(largest=largest, relative=relative), made


def unfitting(lowered: Lowered, flooding_bits: int = 0) -> str:
    """What a network without a chain in any ring is told."""
    last, largest = lowered.matrices[-1].name or "the last", max(MOST_BITS)
    widest = max(max(matrix.weight.shape) for matrix in lowered.matrices)
    flooded = (
        f" Or set flooding_bits=0: {flooding_bits} bits of noise in the answers take two primes or "
        "more beside those of the network."
        if flooding_bits
        else ""
    )
    return (
        f"Never in one ring: layer {last!r} brings the network to matrices="
        f"{len(lowered.matrices)} of up to {widest} values; the largest ring ({largest}) holds "
        f"{MOST_BITS[largest]} bits and {largest // 2} values, and answers must err by less than "
        f"{TOLERANCE:g} of their size. Use fewer layers, scale inputs and weights to about 1, or "
        f"encrypt only the head (sealed split).{flooded}"
    )
