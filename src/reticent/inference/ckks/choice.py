"""The cheapest chain whose answers are precise enough in a ring."""

from __future__ import annotations

import math
from collections.abc import Iterator

from reticent.inference.ckks.chain import (
    FLOODED_BITS,
    Chain,
    chains,
    flooded_batch_chain,
    flooded_chain,
)
from reticent.inference.ckks.flooding import Flood, content, flood, room
from reticent.inference.ckks.lowering import Lowered
from reticent.inference.ckks.noise import CERTIFIED_BITS, certified_error, tail
from reticent.inference.ckks.packing import Layer
from reticent.inference.ckks.parameters import MOST_BITS
from reticent.inference.ckks.reach import Gain, Reach


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
    gains = reach.at(1 if layers is None else layers[0].copies)
    for merged in (True, False):
        if merged and (turns or not lowered.squares):
            continue  # too small a scale to be rotated at
        found = [
            (certified_error(gains, layers, chain, answers=answers), chain)
            for chain in chains(len(lowered.matrices), degree, merged=merged, whole=layers is None)
            if headroom(chain, reach) >= 1
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
    masks = room(flood(bits, masked=degree, answers=answers, error=0.0, content=held), degree)
    for scales in FLOODED_BITS:
        fitting = (
            flooded_chain(matrices, degree, scale=scale, reply_bits=math.ceil(scale + masks))
            for scale in scales
        )
        chain = next((made for made in fitting if made is not None), None)
        if chain is None:
            continue
        own = certified_error(within, layers, chain, answers=answers, bits=bits + 2, own=True)
        made = flood(bits, masked=degree, answers=answers, error=own, content=held)
        gains = reach.at(layers[0].copies)
        error = certified_error(gains, layers, chain, answers=answers)
        error += tail(CERTIFIED_BITS, answers) * made.spread
        if error <= reach.most:
            return chain, error, made
    return None


def flooded_batch(
    lowered: Lowered, degree: int, *, reach: Reach, within: tuple[Gain, ...], bits: int
) -> tuple[Chain, float, Flood] | None:
    """The same for a batch: every slot of every reply is an answer, imaginary parts are masked."""
    answers, matrices = len(lowered.matrices[-1].weight), len(lowered.matrices)
    numbers = answers * degree // 2
    for scale in FLOODED_BITS[0]:
        chain = flooded_batch_chain(matrices, degree, scale=scale)
        if chain is None:
            continue
        own = certified_error(within, None, chain, answers=numbers, bits=bits + 2, own=True)
        made = flood(bits, masked=numbers, answers=numbers, error=own, content=own)
        error = certified_error(reach.gains, None, chain, answers=answers)
        error += tail(CERTIFIED_BITS, answers) * made.spread
        if error <= reach.most and headroom(chain, reach) >= 1:
            return chain, error, made
        return None
    return None


def headroom(chain: Chain, reach: Reach) -> float:
    """Bits by which values could be larger than on the records before they overflow a modulus."""
    sizes = chain.parameters.prime_bits
    return min(
        sum(sizes[: stage.left + 1]) - 1 - stage.out_bits - math.log2(max(largest, 2.0**-20))
        for stage, largest in zip(chain.stages, reach.ranges, strict=True)
    )


def shortage(lowered: Lowered, degree: int, flooding_bits: int = 0) -> str:
    """Why a ring doesn't do, in words: the first layer that is too wide or needs a level too many;
    else it is for lack of precision.
    """
    for matrix in lowered.matrices:
        if max(matrix.weight.shape) > degree // 2:
            return (
                f"layer {matrix.name!r} has {max(matrix.weight.shape)} values, a ciphertext "
                f"{degree // 2}"
            )
    for count, matrix in enumerate(lowered.matrices, 1):
        if not any(_fitting(count, degree, flooding_bits)):
            needed = [
                sum(made.parameters.prime_bits) for made in _fitting(count, None, flooding_bits)
            ]
            least = f", {min(needed)} bits" if needed else ""
            return f"layer {matrix.name!r} needs one more level{least}, of {MOST_BITS[degree]} bits"
    last = lowered.matrices[-1].name
    return f"noise leaves the answers of {last!r} too few places in {MOST_BITS[degree]} bits"


def _fitting(matrices: int, degree: int | None, flooding_bits: int) -> Iterator[Chain]:
    """Chains for so many matrices in this ring; the thriftiest of the largest if None."""
    ring = degree or max(MOST_BITS)
    if flooding_bits:
        scale = min(FLOODED_BITS[0])
        made = flooded_chain(matrices, ring, scale=scale, reply_bits=scale + 30)
        yield from [] if made is None else [made]
        return
    for merged in (False, True)[: 1 + (matrices > 1)]:
        yield from chains(matrices, ring, merged=merged, whole=False)


def unfitting(lowered: Lowered, flooding_bits: int = 0) -> str:
    """What a network without a chain in any ring is told."""
    flooded = (
        f" Or set flooding_bits=0: {flooding_bits} bits of noise in the answers take two primes or "
        "more beside those of the network."
        if flooding_bits
        else ""
    )
    return (
        f"Never in one ring: {shortage(lowered, max(MOST_BITS), flooding_bits)}. Use fewer layers, "
        "scale inputs and weights to about 1, or encrypt only the head (sealed split)."
        f"{flooded}"
    )
