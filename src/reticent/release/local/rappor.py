"""RAPPOR: a Bloom filter randomised once for good, and again for each report."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reticent.errors import ConfigError, DataError
from reticent.release.local.draws import WORD, Source, below, bernoulli
from reticent.release.local.oracle import (
    Estimate,
    checked_categories,
    checked_frequencies,
    checked_values,
    chunks,
    plausible,
)
from reticent.release.local.weights import checked_epsilon, exp_below, flip_threshold

_MOST_CANDIDATES = 4096
_MOST_COHORTS = 2**16


@dataclass(frozen=True, kw_only=True)
class Rappor:
    """RAPPOR (Erlingsson, Pihur & Korolova 2014, sections 2 to 4).

    Each person belongs to a random cohort, whose `hashes` hash functions set bits of a Bloom filter
    of `bits` bits. Permanent step, once per value, kept (`memory`): each bit is flipped with
    probability F / 2**64 (the paper's f / 2). Instantaneous step, each time: 1 with probability
    `one` where the permanent bit is 1, else with `zero`.

    **Claim.** However many reports of one value are seen: `epsilon`, as two filters differ in at
    most 2 h bits and ((W - F) / F)^(2 h) <= e**epsilon, W = 2**64 (the paper's epsilon_inf,
    theorem 1). One report alone: `report_epsilon` (its epsilon_1, theorem 2). Both are worst
    cases: filters that share bits differ in fewer.

    Reports are (n, 2 + ceil(bits / 8)) uint8: the cohort, big-endian, and packed bits.
    """

    categories: int
    epsilon: float
    bits: int = 64
    hashes: int = 2
    cohorts: int = 32
    one: float = 0.75
    zero: float = 0.5

    def __post_init__(self) -> None:
        checked_categories(self.categories)
        checked_epsilon(self.epsilon)
        if self.categories > _MOST_CANDIDATES:
            raise ConfigError(
                f"Expected at most {_MOST_CANDIDATES} candidates, got categories="
                f"{self.categories}. Take local hashing or Hadamard response."
            )
        if not (1 <= self.hashes <= self.bits <= 4096 and 1 <= self.cohorts <= _MOST_COHORTS):
            raise ConfigError(
                f"Expected 1 <= hashes <= bits <= 4096 and 1 to {_MOST_COHORTS} cohorts, got "
                f"hashes={self.hashes}, bits={self.bits}, cohorts={self.cohorts}."
            )
        if not 0 < self.zero < self.one < 1:
            raise ConfigError(
                f"Expected 0 < zero < one < 1, got zero={self.zero}, one={self.one}. The paper "
                "takes 0.5 and 0.75."
            )

    @cached_property
    def flip(self) -> int:
        """F, in 2**-64: the probability that a permanent bit is not the filter's."""
        exponent = checked_epsilon(self.epsilon) / (2 * self.hashes)
        return flip_threshold(exp_below(exponent), WORD)

    @cached_property
    def bit_probabilities(self) -> tuple[Fraction, Fraction]:
        """Of a reported 1 where the filter's bit is 1, and where it is 0 (the paper's q*, p*)."""
        flip = Fraction(self.flip, WORD)
        one, zero = (Fraction(threshold, WORD) for threshold in self._second)
        return (1 - flip) * one + flip * zero, flip * one + (1 - flip) * zero

    @cached_property
    def _second(self) -> tuple[int, int]:
        return int(self.one * WORD), int(self.zero * WORD)

    @property
    def report_epsilon(self) -> float:
        """Bound for one report alone, in nats."""
        one, zero = self.bit_probabilities
        odds = one * (1 - zero) / (zero * (1 - one))
        return math.nextafter(self.hashes * math.log(odds), math.inf) * (1 + 1e-12)

    @cached_property
    def filters(self) -> NDArray[np.bool_]:
        """Each cohort's Bloom filter of each value, (cohorts, k, bits); public."""
        made = np.zeros((self.cohorts, self.categories, self.bits), dtype=np.bool_)
        for cohort, value, number in itertools.product(
            range(self.cohorts), range(self.categories), range(self.hashes)
        ):
            told = hashlib.sha256(f"rappor {cohort} {value} {number}".encode()).digest()
            made[cohort, value, int.from_bytes(told[:8], "big") % self.bits] = True
        return made

    def randomise(self, values: ArrayLike, source: Source) -> NDArray[np.uint8]:
        """One first report per value (n,): cohort, permanent and instantaneous step."""
        return self.instantaneous(self.permanent(values, source), source)

    def permanent(
        self, values: ArrayLike, source: Source, *, cohorts: ArrayLike | None = None
    ) -> NDArray[np.uint8]:
        """Cohort and permanent bits, shaped as a report: secret, kept by each person's device.

        `cohorts` (n,) are those that people already belong to; None draws them.
        """
        held = checked_values(values, self.categories)
        drawn = below(source, self.cohorts, len(held)) if cohorts is None else cohorts
        cohort = checked_values(drawn, self.cohorts)
        made = self._empty(len(held), cohort)
        for rows in chunks(len(held), self.bits):
            bits = self.filters[cohort[rows], held[rows]]
            bits = bits ^ bernoulli(source, self.flip, bits.shape)
            made[rows, 2:] = np.packbits(bits, axis=1)
        return made

    def instantaneous(self, permanent: NDArray[np.uint8], source: Source) -> NDArray[np.uint8]:
        """A fresh report from each row of `permanent`."""
        cohort, _ = self._parts(permanent)
        made = self._empty(len(permanent), cohort)
        one, zero = self._second
        for rows in chunks(len(permanent), self.bits):
            kept = np.unpackbits(permanent[rows, 2:], axis=1, count=self.bits).astype(np.bool_)
            ones = bernoulli(source, one, kept.shape)
            made[rows, 2:] = np.packbits(
                np.where(kept, ones, bernoulli(source, zero, kept.shape)), axis=1
            )
        return made

    def estimate(self, reports: NDArray[Any]) -> Estimate:
        """Counts (k,) of the candidates by least squares on all cohorts' bit counts."""
        cohort, packed = self._parts(reports)
        one, zero = (float(chance) for chance in self.bit_probabilities)
        ones = np.zeros((self.cohorts, self.bits), dtype=np.int64)
        for rows in chunks(len(reports), self.bits):
            order = np.argsort(cohort[rows], kind="stable")
            present, starts = np.unique(cohort[rows][order], return_index=True)
            bits = np.unpackbits(packed[rows][order], axis=1, count=self.bits)
            ones[present] += np.add.reduceat(bits, starts, axis=0, dtype=np.int64)
        sizes = np.bincount(cohort, minlength=self.cohorts)[:, None]
        counts = self._decoder @ ((ones - sizes * zero) / (one - zero)).reshape(-1)
        spread = self.variance(len(reports), plausible(counts))
        return Estimate(counts=counts, standard_errors=np.sqrt(spread), reports=len(reports))

    @cached_property
    def _decoder(self) -> NDArray[np.float64]:
        """(k, cohorts bits): the pseudo-inverse of the design, times the number of cohorts.

        A person of a uniform cohort who holds x contributes, on average, the x-th column of the
        design over the number of cohorts; with full rank, the estimate is therefore unbiased.
        """
        design = self.filters.transpose(0, 2, 1).reshape(-1, self.categories).astype(np.float64)
        if np.linalg.matrix_rank(design) < self.categories:
            raise ConfigError(
                f"Expected Bloom filters that tell {self.categories} candidates apart, got "
                f"bits={self.bits}, hashes={self.hashes}, cohorts={self.cohorts}. Raise bits or "
                "cohorts."
            )
        return np.asarray(self.cohorts * np.linalg.pinv(design), dtype=np.float64)

    def variance(self, n: int, frequencies: ArrayLike) -> NDArray[np.float64]:
        """Variance (k,) of the counts, over cohorts and both steps, one report per person."""
        shares = checked_frequencies(frequencies, self.categories)
        one, zero = (float(chance) for chance in self.bit_probabilities)
        gap = (one - zero) ** 2
        on, off = one * (1 - one) / gap, zero * (1 - zero) / gap
        decoder = self._decoder.reshape(self.categories, self.cohorts, self.bits)
        squared = np.zeros((self.categories, self.categories))
        for cohort in range(self.cohorts):
            weights, held = decoder[:, cohort], self.filters[cohort].astype(np.float64)
            squared += (weights @ held.T) ** 2 + (weights**2) @ (off + (on - off) * held).T
        spread = squared / self.cohorts - np.eye(self.categories)
        made: NDArray[np.float64] = n * spread @ shares
        return made

    def likelihoods(self, value: int) -> Mapping[tuple[int, ...], Fraction]:
        """Each report, (cohort, *bits), and its exact probability; cohorts 2**bits of them."""
        one, zero = self.bit_probabilities
        return self._products(value, one, zero)

    def permanent_likelihoods(self, value: int) -> Mapping[tuple[int, ...], Fraction]:
        """Each (cohort, *permanent bits) and its exact probability."""
        flip = Fraction(self.flip, WORD)
        return self._products(value, 1 - flip, flip)

    def _products(
        self, value: int, one: Fraction, zero: Fraction
    ) -> Mapping[tuple[int, ...], Fraction]:
        made = {}
        for cohort in range(self.cohorts):
            chances = [one if bit else zero for bit in self.filters[cohort, value]]
            for bits in itertools.product((0, 1), repeat=self.bits):
                made[(cohort, *bits)] = math.prod(
                    (p if bit else 1 - p for bit, p in zip(bits, chances, strict=True)),
                    start=Fraction(1, self.cohorts),
                )
        return made

    def _empty(self, n: int, cohort: NDArray[np.int64]) -> NDArray[np.uint8]:
        made = np.empty((n, 2 + (self.bits + 7) // 8), dtype=np.uint8)
        made[:, :2] = cohort.astype(">u2").view(np.uint8).reshape(-1, 2)
        return made

    def _parts(self, reports: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        width = 2 + (self.bits + 7) // 8
        if reports.ndim != 2 or reports.shape[1] != width or reports.dtype != np.uint8:
            raise DataError(
                f"Expected reports of shape (n, {width}) and uint8, got shape={reports.shape}, "
                f"dtype={reports.dtype}. Were they made with other settings?"
            )
        cohort = np.ascontiguousarray(reports[:, :2]).view(">u2").reshape(-1).astype(np.int64)
        return checked_values(cohort, self.cohorts), reports[:, 2:]
