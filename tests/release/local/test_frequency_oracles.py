"""Frequency oracles do what they list: preimages, distributions, expectation, variance."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
from local_oracles import ORDINARY, SMALL
from numpy.typing import NDArray
from scipy import stats

from reticent.errors import ConfigError, DataError
from reticent.release.local import hadamard, response
from reticent.release.local.draws import ExperimentSource, SecureSource
from reticent.release.local.hadamard import HadamardResponse
from reticent.release.local.hashing import LocalHashing
from reticent.release.local.oracle import FrequencyOracle
from reticent.release.local.rappor import Rappor
from reticent.release.local.response import RandomisedResponse
from reticent.release.local.subset import SubsetSelection
from reticent.release.local.unary import UnaryEncoding

K = 6
SHARES = np.array([0.4, 0.3, 0.2, 0.1, 0.0, 0.0])


def keys(oracle: FrequencyOracle, reports: NDArray[np.generic]) -> list[object]:
    """Reports as `likelihoods` names them."""
    if isinstance(oracle, UnaryEncoding):
        return [tuple(row) for row in np.unpackbits(reports, axis=1, count=K).tolist()]
    if isinstance(oracle, SubsetSelection):
        bits = np.unpackbits(reports, axis=1, count=K)
        return [tuple(np.flatnonzero(row).tolist()) for row in bits]
    if isinstance(oracle, Rappor):
        cohort = reports[:, 0].astype(int) * 256 + reports[:, 1]
        bits = np.unpackbits(reports[:, 2:], axis=1, count=oracle.bits)
        return [(int(c), *row) for c, row in zip(cohort, bits.tolist(), strict=True)]
    return [tuple(row) if reports.ndim > 1 else row for row in reports.tolist()]


@pytest.mark.parametrize("epsilon", [0.7, 2.5])
@pytest.mark.parametrize("kind", [RandomisedResponse, HadamardResponse])
def test_the_preimage_of_each_report_has_the_stated_size(
    kind: type[RandomisedResponse] | type[HadamardResponse],
    epsilon: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Draws at both ends of each stretch of the range show which report owns the stretch."""
    oracle = kind(categories=K, epsilon=epsilon)
    high, low = oracle.weights
    listed = oracle.likelihoods(0)
    heavy = sum(p == max(listed.values()) for p in listed.values())
    lengths = [high] * heavy + [low] * (len(listed) - heavy)
    ends = list(itertools.accumulate(lengths))
    module = response if kind is RandomisedResponse else hadamard
    for value in range(K):
        sides = []
        for draws in ([e - n for e, n in zip(ends, lengths, strict=True)], [e - 1 for e in ends]):
            seen: list[int] = []

            def scripted(
                _: object, top: int, count: int, draws: list[int] = draws, seen: list[int] = seen
            ) -> NDArray[np.int64]:
                seen.append(top)
                return np.array(draws)

            monkeypatch.setattr(module, "below", scripted)
            sides.append(oracle.randomise(np.full(len(ends), value), SecureSource()).tolist())
            assert seen == [ends[-1]]
        assert sides[0] == sides[1]
        made = {r: Fraction(n, ends[-1]) for r, n in zip(sides[0], lengths, strict=True)}
        assert made == oracle.likelihoods(value)


@pytest.mark.parametrize("value", [0, 3, K - 1])
@pytest.mark.parametrize("epsilon", [0.3, 1.3])
@pytest.mark.parametrize("name", SMALL)
def test_reports_follow_the_listed_law_and_no_other(name: str, epsilon: float, value: int) -> None:
    oracle = SMALL[name](K, epsilon)
    made = keys(oracle, oracle.randomise(np.full(60_000, value), ExperimentSource(11 + value)))
    law = oracle.likelihoods(value)
    order = {report: place for place, report in enumerate(law)}
    counts = np.bincount([order[report] for report in made], minlength=len(law))
    # False alarms: 1 in 10^4 per case; the seed is fixed.
    expected = np.array([float(chance) for chance in law.values()])
    assert stats.chisquare(counts, expected * len(made)).pvalue > 1e-4
    other = oracle.likelihoods((value + 1) % K)
    wrong = np.array([float(other[report]) for report in law])
    assert stats.chisquare(counts, wrong * len(made)).pvalue < 1e-9


def test_hashes_are_pairwise_independent_and_their_unequal_buckets_counted() -> None:
    oracle = LocalHashing(categories=K, epsilon=1.2, prime=7)
    held, other = oracle.probabilities
    for value, asked in itertools.product(range(K), repeat=2):
        chance = sum(
            chance
            for (scale, shift, told), chance in oracle.likelihoods(value).items()
            if (scale * asked + shift) % 7 % oracle.buckets == told
        )
        assert chance == (held if asked == value else other)
    assert other != Fraction(1, oracle.buckets)


def test_rappor_reports_follow_their_law() -> None:
    oracle = Rappor(categories=K, epsilon=3.0, bits=6, hashes=2, cohorts=2)
    made = keys(oracle, oracle.randomise(np.full(60_000, 2), ExperimentSource(4)))
    law = oracle.likelihoods(2)
    order = {report: place for place, report in enumerate(law)}
    counts = np.bincount([order[report] for report in made], minlength=len(law))
    expected = np.array([float(chance) for chance in law.values()])
    assert stats.chisquare(counts, expected * len(made)).pvalue > 1e-4


@pytest.mark.parametrize("name", ORDINARY)
def test_counts_are_unbiased_with_the_stated_variance_and_not_a_tenth_off(name: str) -> None:
    repeats, n = 2500, 40
    oracle = ORDINARY[name](K, 1.2)
    values = np.repeat(np.arange(K), (SHARES * n).round().astype(int))
    reports = oracle.randomise(np.tile(values, repeats), ExperimentSource(7))
    parts = reports.reshape(repeats, n, *reports.shape[1:])
    counts = np.array([oracle.estimate(part).counts for part in parts])
    stated = oracle.variance(n, SHARES)
    drift = (counts.mean(axis=0) - SHARES * n) / np.sqrt(stated / repeats)
    assert np.abs(drift).max() < 4.5
    ratios = ((counts - SHARES * n) ** 2).mean(axis=0) / stated
    # Kurtosis near 3: one ratio has standard error sqrt(2 / repeats) = 0.028, their mean less.
    assert np.abs(ratios - 1).max() < 0.13
    assert abs(ratios.mean() - 1) < 0.045
    for factor in (0.9, 1.1):
        assert abs(ratios.mean() / factor - 1) > 0.05
    errors = oracle.estimate(reports).standard_errors
    assert errors == pytest.approx(np.sqrt(oracle.variance(n * repeats, SHARES)), rel=0.02)


def test_variances_are_those_of_the_papers() -> None:
    """Wang et al. 2017, table 1, for rare values; Acharya et al. 2019 for one block."""
    n, k, e = 1000, 50, np.exp(1.5)
    rare = np.zeros(k)
    rare[0] = 1.0
    cases = {
        RandomisedResponse: n * (k - 2 + e) / (e - 1) ** 2,
        UnaryEncoding: n * 4 * e / (e - 1) ** 2,
    }
    for kind, variance in cases.items():
        made = kind(categories=k, epsilon=1.5).variance(n, rare)
        assert made[1:] == pytest.approx(variance, rel=1e-9)
    half = np.exp(0.75)
    symmetric = UnaryEncoding(categories=k, epsilon=1.5, symmetric=True)
    assert symmetric.variance(n, rare)[1] == pytest.approx(n * half / (half - 1) ** 2)
    hashed = LocalHashing(categories=k, epsilon=float(np.log(4)))
    assert hashed.variance(n, rare)[1] == pytest.approx(n * 4 * 4 / 9, rel=1e-6)
    small = HadamardResponse(categories=k, epsilon=0.5)
    ratio = (np.exp(0.5) + 1) / (np.exp(0.5) - 1)
    assert small.blocks == 1
    assert small.variance(n, rare)[1] == pytest.approx(n * ratio**2)


def test_hadamard_rows_are_orthogonal_and_the_transform_is_theirs() -> None:
    b = 16
    rows = np.array([[(-1) ** (j & y).bit_count() for y in range(b)] for j in range(b)])
    assert np.array_equal(rows @ rows.T, b * np.eye(b))
    table = np.random.default_rng(0).normal(size=(3, b))
    assert hadamard._walsh(table) == pytest.approx(table @ rows.T)
    for row in range(1, b):
        for agrees in (True, False):
            columns = hadamard._column(
                np.full(b // 2, row), np.arange(b // 2), np.full(b // 2, agrees)
            )
            assert sorted(columns) == [y for y in range(b) if bool(rows[row, y] == 1) == agrees]


@pytest.mark.parametrize("name", ORDINARY)
def test_values_and_reports_that_cannot_be_are_refused(name: str) -> None:
    oracle = ORDINARY[name](K, 1.0)
    for values in ([0, K], [-1], [0.5], [[0]], ["a"]):
        with pytest.raises(DataError, match=r"Expected (values from 0|whole numbers)"):
            oracle.randomise(values, SecureSource())
    assert len(oracle.randomise([], SecureSource())) == 0
    with pytest.raises(DataError, match="Expected"):
        oracle.estimate(np.full((3, 9), 7, dtype=np.uint8))
    with pytest.raises(ConfigError, match="shares that sum to 1"):
        oracle.variance(10, np.full(K, 0.5))
    for epsilon in (0.0, -1.0, float("nan"), float("inf"), 21.0):
        with pytest.raises(ConfigError, match="epsilon <= 20"):
            ORDINARY[name](K, epsilon)
    with pytest.raises(ConfigError, match="categories"):
        ORDINARY[name](1, 1.0)


def test_bloom_filters_that_confuse_candidates_are_refused() -> None:
    oracle = Rappor(categories=30, epsilon=1.0, bits=4, hashes=2, cohorts=1)
    with pytest.raises(ConfigError, match="Raise bits or cohorts"):
        oracle.estimate(oracle.randomise([1, 2], SecureSource()))
    for wrong in ({"zero": 0.8}, {"bits": 1}, {"cohorts": 0}, {"categories": 5000}):
        with pytest.raises(ConfigError, match="Expected"):
            Rappor(**{"categories": 4, "epsilon": 1.0, **wrong})  # type: ignore[arg-type]
