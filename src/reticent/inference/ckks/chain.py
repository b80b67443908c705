"""Scales and primes of a network's products: which division each matrix pays for.

A square's product is not divided: the matrix behind it multiplies it further, and one division
by a larger prime takes both back. So a network of m matrices spends m primes at most. Where
inputs aren't rotated, the first matrix isn't divided either: its product is large enough
to be squared as it is, and the network spends m - 1. Fewer primes make every operation cheaper.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from reticent.inference.ckks.lowering import Lowered
from reticent.inference.ckks.packing import Layer
from reticent.inference.ckks.parameters import (
    FEWEST_PRIME_BITS,
    MOST_BITS,
    MOST_PRIME_BITS,
    Parameters,
)
from reticent.inference.ckks.program import Values

# Room above the scale in the lowest prime: for the answers, and for masks of 29 bits, which
# spread over the coefficients and are smaller there by the root of three times the ring degree.
HEADROOM_BITS = 26
# The largest error that the noise may make in an answer, in units of the answers' size.
TOLERANCE = 2.0**-10
MOST_PLACES = 12
_ERROR = 3.2  # standard deviation of a fresh coefficient's error
_TRIALS = 32


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One matrix: weights at scale 2**`weight_bits`, made at `level`; `divides` by its prime."""

    level: int
    weight_bits: int
    out_bits: int
    divides: bool

    @property
    def left(self) -> int:
        """The level afterwards."""
        return self.level - self.divides


@dataclass(frozen=True, kw_only=True)
class Chain:
    """The ring's parameters and a stage for each matrix."""

    parameters: Parameters
    stages: tuple[Stage, ...]


@dataclass(frozen=True, kw_only=True)
class Error:
    """The largest error of an answer, and by the answers' largest size (at least 1)."""

    largest: float
    relative: float

    @property
    def places(self) -> int:
        """Binary places to round answers to: a step is twice the largest error or more."""
        return min(MOST_PLACES, math.floor(-math.log2(2 * self.largest + 2.0**-60)))


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
            for chain in _chains(len(lowered.matrices), degree, merged=merged, whole=layers is None)
        ]
        if found:
            error, chain = min(found, key=lambda one: one[0].relative)
            if error.relative <= TOLERANCE:
                return chain, error
    return None


def unfitting(lowered: Lowered) -> str:
    """What a network without a chain in any ring is told."""
    last, largest = lowered.matrices[-1].name or "the last", max(MOST_BITS)
    widest = max(max(matrix.weight.shape) for matrix in lowered.matrices)
    return (
        f"Never in one ring: layer {last!r} brings the network to matrices="
        f"{len(lowered.matrices)} of up to {widest} values; the largest ring ({largest}) holds "
        f"{MOST_BITS[largest]} bits and {largest // 2} values, and answers must err by less than "
        f"{TOLERANCE:g} of their size. Use fewer layers, scale inputs and weights to about 1, or "
        "encrypt only the head (sealed split)."
    )


def _chains(matrices: int, degree: int, *, merged: bool, whole: bool) -> Iterator[Chain]:
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
        divides = not (merged and index == 0)
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


def simulated_error(
    lowered: Lowered, layers: tuple[Layer, ...] | None, chain: Chain, *, bound: float
) -> Error:
    """The largest error of an answer over `_TRIALS` random inputs.

    The noise of each operation is drawn with the standard deviation that theory gives it
    (Cheon et al. 2017; roundings are uniform, errors Gaussian): it is not measured. Inputs are
    uniform within `bound`. Seeded: the same network gets the same chain everywhere. Without
    `layers` weights are whole numbers and nothing rotates.
    """
    rng = np.random.default_rng(0)
    x = rng.uniform(-bound, bound, size=(_TRIALS, lowered.matrices[0].weight.shape[1]))
    exact = lowered.run(x)
    root = math.sqrt(chain.parameters.degree)
    noisy = x + _gaussian(rng, x, _ERROR * root / 2.0**chain.parameters.scale_bits)
    bits = chain.parameters.scale_bits
    for index, (matrix, stage) in enumerate(zip(lowered.matrices, chain.stages, strict=True)):
        layer = None if layers is None else layers[index]
        if layer is not None and layer.rotations > 1:
            noisy = noisy + _gaussian(rng, noisy, _turning(chain, stage.level) / 2.0**bits)
        coded = (1.0 if layer is None else root) / math.sqrt(12) / 2.0**stage.weight_bits
        met = np.ones(noisy.shape[1]) if layer is None else _met(layer, noisy.shape[1])
        coding = coded * np.sqrt(noisy**2 @ met)[:, None]
        noisy = noisy @ matrix.weight.T + matrix.bias
        noisy = noisy + rng.normal(size=noisy.shape) * coding
        rounded = root * math.sqrt(chain.parameters.degree / 18) if stage.divides else 0.0
        turning = 0.0 if layer is None else _turning(chain, stage.left)
        sums = 0 if layer is None else len(layer.sums)
        spread = math.hypot(rounded, turning) * 2.0 ** (sums / 2)
        noisy = noisy + _gaussian(rng, noisy, spread / 2.0**stage.out_bits)
        bits = 2 * stage.out_bits
        if index < len(lowered.squares):
            noisy = lowered.squares[index].run(noisy)
    largest = float(np.abs(noisy - exact).max())
    return Error(largest=largest, relative=largest / max(1.0, float(np.abs(exact).max())))


def _met(layer: Layer, inputs: int) -> Values:
    """How many slots with each input (inputs,) an output sums over, those with no weight too."""
    here = layer.columns[:, : layer.span]
    counts = np.bincount(here[here >= 0], minlength=inputs)
    share = 2.0 ** len(layer.sums) * len(layer.turns) / layer.span
    return np.asarray(counts * share, dtype=np.float64)


def _gaussian(rng: np.random.Generator, like: Values, spread: float) -> Values:
    return rng.normal(size=like.shape) * spread


def _turning(chain: Chain, level: int) -> float:
    """Standard deviation of what a rotation adds to a slot."""
    *data, special = chain.parameters.prime_bits
    degree = chain.parameters.degree
    keys = sum(4.0 ** (bits - special) for bits in data[: level + 1]) * degree / 12 * _ERROR**2
    return math.sqrt(degree * (keys + degree / 18))
