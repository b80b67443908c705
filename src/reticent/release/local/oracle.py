"""Frequency oracles: what all of them can do, and the estimate that counting support gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reticent.errors import ConfigError, DataError
from reticent.release.local.draws import Source

MOST_CATEGORIES = 2**20
_CELLS = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Estimated counts (k,) of the categories among `reports` people, with standard errors (k,).

    The estimates are unbiased, so they may be negative. The errors are those of the randomisation
    for the people asked; sampling error of a larger population comes on top.
    """

    counts: NDArray[np.float64]
    standard_errors: NDArray[np.float64]
    reports: int


class FrequencyOracle(Protocol):
    """An epsilon-DP randomiser of one value among `categories`, and its estimator.

    **Claim.** For any two values and any report, the probabilities of the report differ by a factor
    of at most e**epsilon, exactly, as `likelihoods` lists them and `proof.largest_ratio` checks.
    **Assumptions.** The source's bytes are uniform; one report per value (`memory` for more).
    """

    @property
    def categories(self) -> int:
        """How many values there are; values are the integers from 0."""

    @property
    def epsilon(self) -> float:
        """Bound on the log-ratio of probabilities of one report, in nats."""

    def randomise(self, values: ArrayLike, source: Source) -> NDArray[Any]:
        """One report for each of the values (n,); the first axis of the result is (n,)."""

    def estimate(self, reports: NDArray[Any]) -> Estimate:
        """Unbiased counts of all categories."""

    def variance(self, n: int, frequencies: ArrayLike) -> NDArray[np.float64]:
        """Variance (k,) of the counts for `n` people of whom shares `frequencies` (k,) hold each.

        Over the randomisation alone, in closed form; exact for what is implemented.
        """

    def likelihoods(self, value: int) -> Mapping[Any, Fraction]:
        """Every report and its exact probability. For alphabets small enough to list."""


def checked_categories(categories: int) -> int:
    """The number of categories; `ConfigError` outside [2, 2**20]."""
    if not 2 <= categories <= MOST_CATEGORIES:
        raise ConfigError(
            f"Expected 2 to {MOST_CATEGORIES} categories, got categories={categories}. Name the "
            "public list of possible values."
        )
    return categories


def checked_values(values: ArrayLike, categories: int) -> NDArray[np.int64]:
    """Values (n,) as integers below `categories`; `DataError` for anything else."""
    array = np.asarray(values)
    if array.ndim != 1 or (array.dtype.kind not in "iu" and array.size):
        raise DataError(
            f"Expected whole numbers of shape (n,), got dtype={array.dtype}, shape={array.shape}. "
            "Give each value's place in the public list of categories."
        )
    if array.size and not (array.min() >= 0 and array.max() < categories):
        raise DataError(
            f"Expected values from 0 to {categories - 1}, got others. Name all possible values "
            "as categories beforehand."
        )
    return array.astype(np.int64)


def checked_frequencies(frequencies: ArrayLike, categories: int) -> NDArray[np.float64]:
    """Shares (k,) that sum to 1; `ConfigError` for anything else."""
    shares = np.asarray(frequencies, dtype=np.float64)
    if shares.shape != (categories,) or not (shares >= 0).all() or abs(shares.sum() - 1) > 1e-6:
        raise ConfigError(
            f"Expected {categories} shares that sum to 1, got shape={shares.shape} with sum "
            f"{shares.sum():.4g}."
        )
    return shares


def chunks(n: int, width: int) -> Iterator[slice]:
    """Slices of rows so that each holds about a million cells of `width` per row."""
    step = max(1, _CELLS // max(1, width))
    for start in range(0, n, step):
        yield slice(start, min(n, start + step))


def support_estimate(hits: ArrayLike, n: int, held: Fraction, other: Fraction) -> Estimate:
    """Counts from how many reports support each category (k,).

    A report supports the value that its sender holds with probability `held`, any other with
    probability `other`: (hits - n other) / (held - other) (Wang et al. 2017, pure protocols).
    """
    gap = float(held - other)
    counts = (np.asarray(hits, dtype=np.float64) - n * float(other)) / gap
    spread = support_variance(n, plausible(counts), held, other)
    return Estimate(counts=counts, standard_errors=np.sqrt(spread), reports=n)


def support_variance(
    n: int, shares: NDArray[np.float64], held: Fraction, other: Fraction
) -> NDArray[np.float64]:
    """Variance (k,) of `support_estimate` (Wang et al. 2017), with no term left out."""
    spread_held = float(held * (1 - held) / (held - other) ** 2)
    spread_other = float(other * (1 - other) / (held - other) ** 2)
    made: NDArray[np.float64] = n * (shares * spread_held + (1 - shares) * spread_other)
    return made


def plausible(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Estimated counts as shares that sum to 1, to put into a variance formula."""
    positive = np.maximum(counts, 0.0)
    total = positive.sum()
    if not total > 0:
        return np.full(len(counts), 1 / len(counts))
    made: NDArray[np.float64] = positive / total
    return made
