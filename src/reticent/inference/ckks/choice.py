"""The cheapest chain whose answers are precise enough in a ring."""

from __future__ import annotations

import math

from reticent.inference.ckks.chain import FLOODED_BITS, Chain, chains, flooded_chain
from reticent.inference.ckks.flooding import Flood, content, flood, room
from reticent.inference.ckks.lowering import Lowered
from reticent.inference.ckks.noise import CERTIFIED_BITS, certified_error, tail
from reticent.inference.ckks.packing import Layer
from reticent.inference.ckks.parameters import MOST_BITS
from reticent.inference.ckks.reach import TOLERANCE, Gain, Reach


def best(
    lowered: Lowered, layers: tuple[Layer, ...] | None, degree: int, *, reach: Reach
) -> tuple[Chain, float] | None:
    """The chain with the fewest primes that is precise enough in this ring, and its error.

    The most precise of as many primes; where none is as precise as is wanted, the most precise of
    all. None where even that is of no use. For `layers` see `certified_error`.
    """
    usable = None
    turns = layers is not None and layers[0].rotations > 1
    answers = len(lowered.matrices[-1].weight)
    for merged in (True, False):
        if merged and (turns or not lowered.squares):
            continue  # too small a scale to be rotated at
        found = [
            (certified_error(reach.gains, layers, chain, answers=answers), chain)
            for chain in chains(len(lowered.matrices), degree, merged=merged, whole=layers is None)
        ]
        if found:
            error, chain = min(found, key=lambda one: one[0])
            if error <= reach.wanted:
                return chain, error
            if error <= reach.most and (usable is None or error < usable[1]):
                usable = chain, error
    return usable


def flooded_best(
    lowered: Lowered,
    layers: tuple[Layer, ...],
    degree: int,
    *,
    reach: Reach,
    within: tuple[Gain, ...],
    bound: float,
    bits: int,
) -> tuple[Chain, float, Flood] | None:
    """The chain whose reply holds its masks, with the answers' error and the flood.

    The noise that is drowned is bounded `within` all inputs, the answers' error is that of records.
    None where answers would be of no use.
    """
    answers, matrices = len(lowered.matrices[-1].weight), len(lowered.matrices)
    held = content(lowered, degree, bound=bound, bits=bits)
    # The reply's size follows from the masks alone, the flood from the chain's noise.
    masks = room(flood(bits, degree=degree, answers=answers, error=0.0, content=held), degree)
    for scales in FLOODED_BITS:
        fitting = (
            flooded_chain(matrices, degree, scale=scale, reply_bits=math.ceil(scale + masks))
            for scale in scales
        )
        chain = next((made for made in fitting if made is not None), None)
        if chain is None:
            continue
        own = certified_error(within, layers, chain, answers=answers, bits=bits + 2, own=True)
        made = flood(bits, degree=degree, answers=answers, error=own, content=held)
        error = certified_error(reach.gains, layers, chain, answers=answers)
        error += tail(CERTIFIED_BITS, answers) * made.spread
        if error <= reach.most:
            return chain, error, made
    return None


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
        f"{TOLERANCE:g} of their size and than would turn decisions on the records. Use fewer "
        f"layers, scale inputs and weights to about 1, or encrypt only the head (sealed split)."
        f"{flooded}"
    )
