"""Unary encoding: one bit per category, each flipped independently."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reticent.errors import DataError
from reticent.release.local.draws import WORD, Source, bernoulli
from reticent.release.local.oracle import (
    Estimate,
    checked_categories,
    checked_frequencies,
    checked_values,
    chunks,
    support_estimate,
    support_variance,
)
from reticent.release.local.weights import checked_epsilon, exp_below, flip_threshold


@dataclass(frozen=True, kw_only=True)
class UnaryEncoding:
    """Optimised unary encoding, or the symmetric one (Wang et al. 2017, OUE and SUE).

    The value's bit is 1 with probability P / 2**64, every other with Q / 2**64. Two values differ
    in two bits, so the largest ratio is P (W - Q) / ((W - P) Q) with W = 2**64. Optimised: P = W /
    2 and (W - Q) / Q <= e**epsilon. Symmetric (basic RAPPOR): P = W - Q and
    (W - Q) / Q <= e**(epsilon / 2). Reports are packed bits, (n, ceil(k / 8)) uint8.
    """

    categories: int
    epsilon: float
    symmetric: bool = False

    def __post_init__(self) -> None:
        checked_categories(self.categories)
        checked_epsilon(self.epsilon)

    @cached_property
    def thresholds(self) -> tuple[int, int]:
        """(P, Q), in 2**-64."""
        exponent = checked_epsilon(self.epsilon) / (2 if self.symmetric else 1)
        flip = flip_threshold(exp_below(exponent), WORD)
        return (WORD - flip if self.symmetric else WORD // 2), flip

    @cached_property
    def probabilities(self) -> tuple[Fraction, Fraction]:
        """Of a 1 in the value's bit, and in any other."""
        held, other = self.thresholds
        return Fraction(held, WORD), Fraction(other, WORD)

    def randomise(self, values: ArrayLike, source: Source) -> NDArray[np.uint8]:
        """One packed report (n, ceil(k / 8)) per value (n,)."""
        held = checked_values(values, self.categories)
        made = np.empty((len(held), (self.categories + 7) // 8), dtype=np.uint8)
        one, zero = self.thresholds
        for rows in chunks(len(held), self.categories):
            part = held[rows]
            bits = bernoulli(source, zero, (len(part), self.categories))
            bits[np.arange(len(part)), part] = bernoulli(source, one, (len(part),))
            made[rows] = np.packbits(bits, axis=1)
        return made

    def estimate(self, reports: NDArray[Any]) -> Estimate:
        """Counts (k,) from packed reports."""
        return support_estimate(
            count_bits(reports, self.categories), len(reports), *self.probabilities
        )

    def variance(self, n: int, frequencies: ArrayLike) -> NDArray[np.float64]:
        """Variance (k,) of the counts."""
        shares = checked_frequencies(frequencies, self.categories)
        return support_variance(n, shares, *self.probabilities)

    def likelihoods(self, value: int) -> Mapping[tuple[int, ...], Fraction]:
        """Each vector of bits and its exact probability; there are 2**k."""
        held, other = self.probabilities
        chances = [held if place == value else other for place in range(self.categories)]
        return {
            bits: math.prod(
                (p if bit else 1 - p for bit, p in zip(bits, chances, strict=True)),
                start=Fraction(1),
            )
            for bits in itertools.product((0, 1), repeat=self.categories)
        }


def count_bits(packed: NDArray[Any], width: int) -> NDArray[np.int64]:
    """How many rows of packed bits (n, ceil(width / 8)) have a 1 in each place (width,)."""
    if packed.ndim != 2 or packed.dtype != np.uint8 or packed.shape[1] != (width + 7) // 8:
        raise DataError(
            f"Expected packed reports of shape (n, {(width + 7) // 8}) and uint8, got "
            f"shape={packed.shape}, dtype={packed.dtype}. Were they made with other categories?"
        )
    total = np.zeros(width, dtype=np.int64)
    for rows in chunks(len(packed), width):
        total += np.unpackbits(packed[rows], axis=1, count=width).sum(axis=0, dtype=np.int64)
    return total
