"""What noise does to answers, simulated on plaintext before anything is encrypted."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from reticent.inference.ckks.chain import Chain
from reticent.inference.ckks.flooding import FLOODED_WEIGHT_BITS
from reticent.inference.ckks.lowering import Lowered
from reticent.inference.ckks.packing import Layer
from reticent.inference.ckks.program import Values

MOST_PLACES = 12
_ERROR = 3.2  # standard deviation of a fresh coefficient's error
_TRIALS = 32


@dataclass(frozen=True, kw_only=True)
class Error:
    """The largest error of an answer, and by the answers' largest size (at least 1)."""

    largest: float
    relative: float

    @property
    def places(self) -> int:
        """Binary places to round answers to: a step is twice the largest error or more."""
        return min(MOST_PLACES, math.floor(-math.log2(2 * self.largest + 2.0**-60)))


def simulated_error(
    lowered: Lowered,
    layers: tuple[Layer, ...] | None,
    chain: Chain,
    *,
    bound: float,
    own: bool = False,
) -> Error:
    """The largest error of an answer over `_TRIALS` random inputs.

    The noise of each operation is drawn with the standard deviation that theory gives it
    (Cheon et al. 2017; roundings are uniform, errors Gaussian): it is not measured. Inputs are
    uniform within `bound`. Seeded: the same network gets the same chain everywhere. Without
    `layers` weights are whole numbers and nothing rotates. The server's `own` noise leaves out that
    of the input, which the client made, and of weights, which are the network's as encoded.
    """
    rng = np.random.default_rng(0)
    x = rng.uniform(-bound, bound, size=(_TRIALS, lowered.matrices[0].weight.shape[1]))
    exact = lowered.run(x)
    root, bits = math.sqrt(chain.parameters.degree), chain.parameters.scale_bits
    # Far below float64's own roundings noise is drawn larger, and the error taken back.
    larger = 2.0 ** max(0, min(bits, *(stage.out_bits for stage in chain.stages)) - 36)
    noisy = x + _gaussian(rng, x, 0.0 if own else _ERROR * root / 2.0**bits * larger)
    for index, (matrix, stage) in enumerate(zip(lowered.matrices, chain.stages, strict=True)):
        layer = None if layers is None else layers[index]
        if layer is not None and layer.rotations > 1:
            noisy = noisy + _gaussian(rng, noisy, _turning(chain, stage.level) / 2.0**bits * larger)
        coded = (1.0 if layer is None else root) / math.sqrt(12) / 2.0**stage.weight_bits
        coded = 0.0 if own else coded * larger
        met = np.ones(noisy.shape[1]) if layer is None else _met(layer, noisy.shape[1])
        coding = coded * np.sqrt(noisy**2 @ met)[:, None]
        noisy = noisy @ matrix.weight.T + matrix.bias
        noisy = noisy + rng.normal(size=noisy.shape) * coding
        rounded = root * math.sqrt(chain.parameters.degree / 18) if stage.divides else 0.0
        turning = 0.0 if layer is None else _turning(chain, stage.left)
        parts = 1 if layer is None else len(layer.giants) * 2 ** len(layer.sums)
        spread = math.hypot(rounded, turning) * math.sqrt(parts)
        noisy = noisy + _gaussian(rng, noisy, spread / 2.0**stage.out_bits * larger)
        bits = 2 * stage.out_bits
        if index < len(lowered.squares):
            noisy = lowered.squares[index].run(noisy)
    largest = float(np.abs(noisy - exact).max()) / larger
    return Error(largest=largest, relative=largest / max(1.0, float(np.abs(exact).max())))


def content(lowered: Lowered, last: Layer, degree: int, *, bound: float) -> float:
    """What a part of a flooded reply holds besides the answers: the hidden layer times the errors
    that the last weights have as encoded, in slots for other rows and in imaginary parts.

    Six standard deviations over random inputs, at least the smallest number that matters.
    """
    rng = np.random.default_rng(0)
    x = rng.uniform(-bound, bound, size=(_TRIALS, lowered.matrices[0].weight.shape[1]))
    for matrix, square in zip(lowered.matrices, lowered.squares, strict=False):
        x = square.run(matrix.run(x))
    coded = math.sqrt(degree / 12) / 2.0**FLOODED_WEIGHT_BITS
    return float(6 * coded * np.sqrt(x**2 @ _met(last, x.shape[1])).max()) + 2.0**-50


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
