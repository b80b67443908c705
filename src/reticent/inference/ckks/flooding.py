"""Noise that drowns what an answer tells about the weights beyond its value, at a stated price.

An answer leaves as f(x) + e, where e comes of roundings under the weights. A client who knows the
key sees e. Flooding adds a Gaussian of standard deviation s to each of the d answers, and a
uniform number of reach M to every other part of the reply, so that the distribution of the reply
is that of one made from f(x) alone, but for a statistical distance of at most

    sqrt(d) E / (2 s)  +  N B / (2 M)  +  2**-(bits + 2)  <=  2**-bits

where |e| <= E and what is masked stays below B in each of N real numbers (two Gaussians whose means
are D apart differ by at most D / (2 s), two uniform ones by D / (2 M)), except with the chance of
the last term. f is the network with its weights as they were encoded, on the numbers that the
client encrypted, its own noise included. The last layer is laid out so that every slot holds a
whole answer, known from f(x), or nothing: B is what the encoding's errors leave there, and no
partial sum. E and B are bounded for every input within the bound, see `noise` for what is assumed.
Outside the claim are ciphertexts and keys that the client made otherwise, and what several replies
tell together beyond the sum of their distances. s must stay below what answers may err by, so E
must lie over 40 bits lower: hence scales of 72 bits or more, more primes, and mostly a larger ring.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reticent.inference.ckks.chain import FLOODED_WEIGHT_BITS
from reticent.inference.ckks.engine import Engine
from reticent.inference.ckks.lowering import Lowered
from reticent.inference.ckks.noise import tail
from reticent.inference.ckks.program import Values
from reticent.inference.ckks.reach import largest_hidden
from reticent.random import SecureRandom

# Bits of a mask that one float64 is trusted with; finer ones come from another.
_LIMB_BITS = 45


@dataclass(frozen=True, kw_only=True)
class Flood:
    """Answers get a Gaussian of standard deviation `spread`, all else uniform up to `reach`."""

    bits: int
    spread: float
    reach: float

    def describe(self) -> str:
        """What it hides, and what it costs answers."""
        return (
            f"flooded: {self.bits} bits of statistical security, answers bear a Gaussian of "
            f"{self.spread:.2g}"
        )


def flood(bits: int, *, masked: int, answers: int, error: float, content: float) -> Flood:
    """For a distance of 2**-`bits`: half of it for the answers, half for what is masked.

    `error` and `content` are E and B, `masked` is N.
    """
    spread = 2.0**bits * math.sqrt(answers) * error
    return Flood(bits=bits, spread=spread, reach=2.0 ** (bits + 1) * masked * content)


def content(lowered: Lowered, degree: int, *, bound: float, bits: int) -> float:
    """What a part of a flooded reply holds besides the answers: the hidden layer times the errors
    that the last weights have as encoded, in slots for other rows and in imaginary parts.
    """
    coded = math.sqrt(degree / 12) / 2.0**FLOODED_WEIGHT_BITS
    hidden = float(np.linalg.norm(largest_hidden(lowered, bound)))
    return tail(bits + 2, degree) * coded * hidden + 2.0**-50


def room(made: Flood, degree: int) -> float:
    """Bits above the scale that the reply's modulus needs.

    Masks spread over the coefficients: each is a Gaussian there, of standard deviation
    reach * sqrt(2 / (3 N)), which stays within 8 of them with a chance of 1e-11 to fail.
    """
    return math.log2(made.reach * math.sqrt(2 / (3 * degree)) * 8) + 1


def limbs(random: SecureRandom, shape: tuple[int, ...], reach: float, scale: float) -> list[Values]:
    """Numbers whose sum is uniform within `reach`, finer than 1 / `scale`.

    A float64 has 53 bits: the low bits of one wide number alone would not be random.
    """
    made = []
    while reach * scale > 2.0**-8:
        made.append((2 * random.uniform(shape) - 1) * reach)
        reach *= 2.0**-_LIMB_BITS
    return made


def flooded(
    engine: Engine, made: Any, answers: NDArray[np.bool_], by: Flood, random: SecureRandom
) -> Any:
    """`made` with noise in `answers` (slots,), masks everywhere else, and fresh randomness."""
    scale, level = engine.scale(made), engine.level(made)
    for real, imaginary in limbs(random, (2, answers.size), by.reach, scale):
        values = np.where(answers, 0.0, real) + 1j * imaginary
        made = engine.add_plain(made, engine.encode(values, scale=scale, level=level))
    noise = np.where(answers, random.normal((answers.size,), sigma=by.spread), 0.0)
    made = engine.add_plain(made, engine.encode(noise, scale=scale, level=level))
    return engine.rerandomise(made)
