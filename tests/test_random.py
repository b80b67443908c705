"""Secure draws follow their distributions; a wrong scale would be noticed.

The source has no seed, so every threshold is set for a false alarm of at most 1e-7 per test: by
the Dvoretzky-Kiefer-Wolfowitz inequality with Massart's constant, P(D > t) <= 2 exp(-2 n t**2).
"""

from __future__ import annotations

import math
import os

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from reticent.random import SecureRandom, add_gaussian, seeded

ALARM = 1e-7
N = 200_000
BOUND = math.sqrt(math.log(2 / ALARM) / (2 * N))


def distance(draws: NDArray[np.float64], law: object) -> float:
    """Kolmogorov-Smirnov statistic of `draws` against a frozen scipy distribution."""
    return float(stats.kstest(draws, law.cdf).statistic)  # type: ignore[attr-defined]


def fixed_bytes(monkeypatch: pytest.MonkeyPatch, byte: int) -> None:
    monkeypatch.setattr(os, "urandom", lambda count: bytes([byte]) * count)


@pytest.mark.parametrize("sigma", [1e-3, 1.0, 37.0])
def test_normal_has_its_scale_and_neither_nine_tenths_nor_eleven_tenths(sigma: float) -> None:
    draws = SecureRandom().normal((N,), sigma=sigma)
    assert distance(draws, stats.norm(scale=sigma)) < BOUND
    # The laws lie 0.023 apart, over three times the bound: a miss is as rare as a false alarm.
    assert distance(draws, stats.norm(scale=0.9 * sigma)) > BOUND
    assert distance(draws, stats.norm(scale=1.1 * sigma)) > BOUND


def test_normal_draws_are_independent_of_their_neighbours() -> None:
    draws = SecureRandom().normal((N, 2), sigma=1.0)
    limit = stats.norm.isf(ALARM / 2) / math.sqrt(N)
    assert abs(np.corrcoef(draws[:, 0], draws[:, 1])[0, 1]) < limit
    assert abs(np.corrcoef(draws[1:, 0], draws[:-1, 0])[0, 1]) < limit
    assert abs(np.corrcoef(draws[:, 0] ** 2, draws[:, 1] ** 2)[0, 1]) < limit


def test_normal_reaches_the_tails_it_should() -> None:
    """Beyond 3 sigma: a clipped or summed-uniform sampler would miss these."""
    count = int((np.abs(SecureRandom().normal((N,), sigma=1.0)) > 3).sum())
    expected = stats.binom(N, 2 * stats.norm.sf(3))
    assert expected.ppf(ALARM / 2) <= count <= expected.isf(ALARM / 2)


def test_uniform_is_uniform_on_the_open_interval() -> None:
    draws = SecureRandom().uniform((N,))
    assert distance(draws, stats.uniform()) < BOUND
    assert distance(0.9 * draws, stats.uniform()) > BOUND
    assert draws.min() > 0
    assert draws.max() < 1


@pytest.mark.parametrize("byte", [0x00, 0xFF])
def test_uniform_stays_inside_at_both_extreme_words(
    monkeypatch: pytest.MonkeyPatch, byte: int
) -> None:
    """All-ones words used to round to exactly 1, whose Laplace quantile is infinite."""
    fixed_bytes(monkeypatch, byte)
    draws = SecureRandom().uniform((3,))
    assert ((draws > 0) & (draws < 1)).all()
    assert np.isfinite(SecureRandom().normal((3,), sigma=1.0)).all()


def test_no_normal_draw_exceeds_the_stated_8_57_sigma(monkeypatch: pytest.MonkeyPatch) -> None:
    fixed_bytes(monkeypatch, 0x00)
    largest = float(SecureRandom().normal((1,), sigma=1.0)[0])
    assert largest == pytest.approx(math.sqrt(2 * 53 * math.log(2)), abs=1e-9)
    assert largest < 8.58
    assert 2 * stats.norm.sf(largest) < 2**-53


@pytest.mark.parametrize("high", [1, 2, 7, 10])
def test_integers_are_even(high: int) -> None:
    draws = SecureRandom().integers(high, (70_000,))
    counts = np.bincount(draws, minlength=high)
    assert counts.shape == (high,)
    if high > 1:
        assert stats.chisquare(counts).pvalue > ALARM


def test_integers_reject_words_that_would_bias_them() -> None:
    """For high = 3 * 2**61, a bare remainder would hit the lowest third with probability 1/2."""
    draws = SecureRandom().integers(3 * 2**61, (4_000,))
    low = int((draws < 2**61).sum())
    assert stats.binomtest(low, 4_000, 1 / 3).pvalue > ALARM
    assert stats.binomtest(low, 4_000, 1 / 2).pvalue < ALARM


@pytest.mark.parametrize("high", [0, -3, 2**63 + 1])
def test_integers_refuse_an_empty_or_too_long_range(high: int) -> None:
    with pytest.raises(ValueError, match="high="):
        SecureRandom().integers(high, (2,))


@pytest.mark.parametrize("sigma", [1.0, 0.3, 12.7])
def test_added_noise_lies_on_the_public_grid(sigma: float) -> None:
    values = seeded(0).normal(size=(500, 3)).astype(np.float32)
    noisy = add_gaussian(values, sigma=sigma, source=SecureRandom())
    assert noisy.dtype == np.float32
    step = sigma / 2**10
    index = np.round(noisy.astype(np.float64) / step)
    np.testing.assert_array_equal(noisy, (index * step).astype(np.float32))
    # The values themselves are nowhere near the grid, so the test could fail.
    assert (np.abs(values / step - np.round(values / step)) > 0.1).any()


def test_added_noise_has_its_scale_and_keeps_the_mean() -> None:
    noisy = add_gaussian(np.full(N, 5.0, np.float32), sigma=0.5, source=SecureRandom())
    away = noisy.astype(np.float64) - 5.0
    # The grid step, 2**-10 sigma, moves the distribution function by less than 0.0003.
    assert distance(away, stats.norm(scale=0.5)) < BOUND + 3e-4
    assert distance(away, stats.norm(scale=0.45)) > BOUND + 3e-4
    assert distance(away, stats.norm(scale=0.55)) > BOUND + 3e-4


def test_two_calls_differ_even_if_numpy_is_seeded_between() -> None:
    values = np.zeros(64, np.float32)
    made = []
    for _ in range(2):
        np.random.seed(1)  # noqa: NPY002
        made.append(add_gaussian(values, sigma=1.0, source=SecureRandom()))
    assert (made[0] != made[1]).any()


@pytest.mark.parametrize("sigma", [0.0, -1.0, math.nan, math.inf])
def test_noise_of_no_scale_is_refused(sigma: float) -> None:
    with pytest.raises(ValueError, match="sigma"):
        add_gaussian(np.zeros(3, np.float32), sigma=sigma, source=SecureRandom())


def test_the_secure_source_is_no_generator_and_takes_no_seed() -> None:
    source = SecureRandom()
    assert not isinstance(source, np.random.Generator)
    assert not hasattr(source, "seed")
    assert not hasattr(source, "__dict__")
    with pytest.raises(TypeError):
        SecureRandom(0)  # type: ignore[call-arg]


@pytest.mark.skipif(np.finfo(np.longdouble).nmant < 60, reason="needs 80-bit floats")
@pytest.mark.parametrize("value", [0.0, 1.0, 100.0])
def test_float64_moves_value_plus_noise_no_more_than_the_docstring_says(
    monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    """The coupling behind 2**-33: exact draws within the same cells, in extended precision."""
    count, rng = 100_000, seeded(3)
    words = [rng.integers(0, 2**64, count, dtype=np.uint64) for _ in range(2)]
    given = iter(words)
    monkeypatch.setattr(os, "urandom", lambda _: next(given).tobytes())
    with_float64 = value + SecureRandom().normal((count,), sigma=1.0)

    cells = [(word >> np.uint64(12)).astype(np.longdouble) for word in words]
    exact_u, exact_v = ((cell + rng.random(count)) / np.longdouble(2) ** 52 for cell in cells)
    turn = 2 * np.longdouble("3.14159265358979323846264338327950288")
    exact = value + np.sqrt(-2 * np.log(exact_u)) * np.cos(turn * exact_v)
    moved = float(np.abs(with_float64 - exact).mean()) * 2**52
    assert 0.5 < moved < 64 + 2 * value
    assert (64 + 2 * 100) * 2.0**-52 / 2.0**-10 < 2**-33


def test_seeded_streams_repeat_and_are_all_different() -> None:
    uses = [(0,), (1,), (0, 1), (1, 1), (0, 1, 1), (0, 2), (2**32,), (2**32 + 1,), (2**32, 1)]
    first = {use: seeded(*use).random() for use in uses}
    assert first == {use: seeded(*use).random() for use in uses}
    assert len(set(first.values())) == len(uses)
    # numpy takes the upper half of a long seed for a second word of entropy.
    assert seeded(5 + (7 << 32)).random() != seeded(5, 7).random()


@pytest.mark.parametrize("use", [(-1,), (0, 0), (0, 1, 0), (0, -1)])
def test_streams_that_numpy_would_confuse_are_refused(use: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="seed"):
        seeded(*use)


def test_the_widest_range_of_integers_is_drawn_whole():
    drawn = SecureRandom().integers(2**63, (2000,))
    assert drawn.dtype == np.int64
    assert drawn.min() >= 0
    # The mean of 2,000 uniform draws lies within six standard errors of the middle.
    assert abs(drawn.mean() / 2**62 - 1) < 6 * (1 / np.sqrt(3)) / np.sqrt(2000)
