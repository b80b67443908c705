"""The error that noise makes in answers, bounded before anything is encrypted.

Every operation adds noise to slots, whose variance theory gives (Cheon et al. 2017; Gentry, Halevi
& Smart 2012 for key switching); what it does to the answers is the network's `reach`. Sums of
independent bounded numbers have Gaussian tails, so that

    an answer errs by more than `certified_error` with a chance of at most 2**-bits,

over the choice of keys and ciphertexts, for inputs that noise reaches no farther from than stated.
**Assumptions**, those of every such analysis: roundings and the digits that keys multiply behave
as independent uniform numbers; squares of errors are left out.

Two things are larger here than in textbooks. A slot's rounding is multiplied with that slot's part
of the secret key, which differs from slot to slot by more than its mean, so the bound holds for the
largest. And the library's digits lie in [0, q), not around 0: their mean, q / 2 in each
coefficient, adds a number to slot 0 that is some 80 times the others', the same at every rotation.
"""

from __future__ import annotations

import math
from collections import defaultdict

from reticent.inference.ckks.chain import Chain
from reticent.inference.ckks.packing import Layer
from reticent.inference.ckks.reach import Gain

# An answer's error and rounding for a client; floods take their own.
CERTIFIED_BITS = 20
MOST_PLACES = 12
_ERROR = 10.5  # variance of a fresh coefficient's error: 42 fair coins
_LN2 = math.log(2)


def places_for(error: float) -> int:
    """Binary places to round answers to: a step is twice the error or more."""
    return min(MOST_PLACES, math.floor(-math.log2(2 * error + 2.0**-60)))


def tail(bits: float, answers: int) -> float:
    """Standard deviations that one of so many answers passes with a chance of 2**-bits."""
    return math.sqrt(2 * ((bits + 1) * _LN2 + math.log(2 * answers)))


def certified_error(
    gains: tuple[Gain, ...],
    layers: tuple[Layer, ...] | None,
    chain: Chain,
    *,
    answers: int,
    bits: float = CERTIFIED_BITS,
    own: bool = False,
) -> float:
    """The largest error of any of the answers, but with a chance of 2**-`bits`.

    Without `layers` weights are whole numbers and nothing rotates (a batch). The server's `own`
    noise leaves out that of the input, which the client made, and of weights, which are the
    network's as encoded.
    """
    made = _Sum(chain, bits)
    for index, gain in enumerate(gains):
        layer = None if layers is None else layers[index]
        if not own:
            made.given(index, gain, layer)
        made.matrix(index, gain, layer)
    return tail(bits, answers) * math.sqrt(made.variance())


class _Sum:
    """Variances of answers, over independent causes; what one key does adds up with itself."""

    def __init__(self, chain: Chain, bits: float) -> None:
        *self._data, self._special = chain.parameters.prime_bits
        self._degree, self._stages = chain.parameters.degree, chain.stages
        self._fresh = chain.parameters.scale_bits
        self._chance = (bits + 1) * _LN2 + math.log(self._degree)
        self._total = 0.0
        self._spikes: defaultdict[object, float] = defaultdict(float)

    def variance(self) -> float:
        return self._total + sum(each**2 for each in self._spikes.values())

    def given(self, index: int, gain: Gain, layer: Layer | None) -> None:
        """The input's own noise, and the weights' as encoded."""
        stage, degree = self._stages[index], self._degree
        if index == 0:
            reached = gain.values if layer is None else gain.pairs * self._met(index, layer)
            self._total += reached * (_ERROR / 2 + 1 / 12) * degree / 4.0**self._fresh
        if layer is None:
            self._total += gain.used / 12 / 4.0**stage.weight_bits
        else:
            # Where a ciphertext holds a row's columns, none of them is without a weight.
            met = gain.used if len(layer.columns) > 1 else gain.coded
            # Of real numbers, whose polynomials are symmetric: their roundings add up to real ones.
            self._total += met * degree / 12 / 4.0**stage.weight_bits

    def matrix(self, index: int, gain: Gain, layer: Layer | None) -> None:
        """What the server's own operations add, up to this matrix's product."""
        stage, before = self._stages[index], self._stages[index - 1]
        if index:
            turns = None if layer is None else self._met(index, layer)
            self._switched("square", turns, gain, before.left, 2 * before.out_bits)
        giants, sums = (1, 0) if layer is None else (len(layer.giants), len(layer.sums))
        parts, scale = giants * 2**sums, 4.0**stage.out_bits
        if stage.divides:
            self._total += gain.rows * parts * self._rounding(parts) / scale
        if layer is None:
            return
        incoming = 2 * before.out_bits if index else self._fresh
        for step in layer.babies:
            if step:
                times = min(giants, self._met(index, layer))
                self._switched(step, times, gain, stage.level, incoming)
        turned = len(layer.moves) * 2**sums + 2**sums - 1
        random, spike = self._turning(stage.left, parts)
        self._total += gain.rows * turned * (random + self._rounding(parts)) / scale
        for step in set(layer.moves):
            # Each lands in a row of its own, for the steps after it move it on.
            count = layer.moves.count(step)
            most = count * min(count * gain.row, gain.rows)
            self._spikes[step] += math.sqrt(most * spike / scale)
        for step in layer.sums:
            self._spikes[step] += math.sqrt(gain.row * spike / scale)

    def _switched(self, key: object, times: int | None, gain: Gain, level: int, bits: int) -> None:
        """A switch of keys in the values that a matrix multiplies, each of which meets so many
        rows, or all of them with one noise (None).
        """
        random, spike = self._turning(level, 1)
        every = gain.values if times is None else gain.pairs * times
        most = every if times is None else min(gain.pair * times**2, every)
        self._total += every * (random + self._rounding(1)) / 4.0**bits
        self._spikes[key] += math.sqrt(most * spike / 4.0**bits)

    def _met(self, index: int, layer: Layer) -> int:
        """How many rows that tell on one answer a slot meets: of the last matrix, its own."""
        return 1 if index == len(self._stages) - 1 else len(layer.turns)

    def _largest(self, slots: int) -> float:
        """How much more than their mean the squares of a secret's slots may sum up to, over so
        many of them (Hsu, Kakade & Zhang 2012, theorem 2.1).
        """
        each = self._chance / slots
        return 1 + math.sqrt(2 * each) + each

    def _rounding(self, slots: int) -> float:
        """Of a division by a prime: half a unit in two polynomials, the second times the secret,
        whose coefficients are -1, 0 and 1 alike.
        """
        return self._degree / 24 * (1 + 2 / 3 * self._degree * self._largest(slots))

    def _turning(self, level: int, slots: int) -> tuple[float, float]:
        """Of a switch of keys: in each slot, by the digits' spread; in one, by their mean."""
        degree = self._degree
        each = sum(4.0 ** (bits - self._special) for bits in self._data[: level + 1])
        random = each * degree / 24 * _ERROR * degree * self._largest(slots)
        return random, each * degree**2 / 8 * _ERROR * degree / 2
