"""The lattice sampler follows its law, exactly at a small scale; seeded noise is another type."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from reticent.errors import ConfigError
from reticent.training.pate import noise
from reticent.training.pate.noise import STEPS, SecureVoteNoise, SeededVoteNoise


@pytest.fixture
def replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The operating system's source exchanged for a seeded one, so that tests repeat."""
    rng = np.random.default_rng(5)
    monkeypatch.setattr(noise.os, "urandom", lambda count: rng.bytes(count))


def discrete_gaussian(sigma: float, most: int) -> np.ndarray:
    weights = np.exp(-(np.arange(-most, most + 1) ** 2) / (2 * sigma**2))
    return weights / weights.sum()


def fit(draws: list[int], sigma: float, most: int = 7) -> float:
    """The p-value of a chi-square test; the tails go to the outermost cells."""
    seen = np.bincount(np.clip(draws, -most, most) + most, minlength=2 * most + 1)
    wide = discrete_gaussian(sigma, 60)
    expected = wide[60 - most : 60 + most + 1].copy()
    expected[0] += wide[: 60 - most].sum()
    expected[-1] += wide[60 + most + 1 :].sum()
    return float(stats.chisquare(seen, expected * len(draws)).pvalue)


@pytest.mark.usefixtures("replayed")
@pytest.mark.parametrize("sigma", [Fraction(3), Fraction(7, 5)])
def test_the_discrete_gaussian_has_its_law_and_no_other(sigma: Fraction) -> None:
    source = SecureVoteNoise()
    draws = [source._gaussian(sigma) for _ in range(12_000)]
    assert fit(draws, float(sigma)) > 1e-3
    assert fit(draws, 0.9 * float(sigma)) < 1e-6
    assert fit(draws, 1.1 * float(sigma)) < 1e-6


@pytest.mark.usefixtures("replayed")
def test_the_laplace_proposal_has_its_law() -> None:
    source = SecureVoteNoise()
    draws = np.array([source._laplace(3) for _ in range(12_000)])
    for size in range(5):
        share = np.exp(-size / 3) * np.tanh(1 / 6)
        for sign in {1, -1} if size else {1}:
            seen = (draws == sign * size).mean()
            assert abs(seen - share) < 4.5 * (share / len(draws)) ** 0.5


@pytest.mark.usefixtures("replayed")
@pytest.mark.parametrize("make", [SecureVoteNoise, lambda: SeededVoteNoise(3)])
def test_votes_get_gaussian_noise_of_the_stated_scale(make: Callable[[], noise.VoteNoise]) -> None:
    draws = np.array(make().draw(4000, sigma=40.0), dtype=np.float64) / STEPS
    assert stats.kstest(draws / 40.0, "norm").pvalue > 1e-3
    # The variance tells scales apart; 4 000 of them vary by 2.2 % each.
    assert abs((draws / 40.0).var() - 1) < 0.09
    assert abs((draws / 36.0).var() - 1) > 0.12
    assert abs((draws / 44.0).var() - 1) > 0.12


def test_low_bits_are_uniform_and_secure_draws_differ() -> None:
    """What a floating-point attack would read: here every residue occurs, whatever the size."""
    first, second = (SecureVoteNoise().draw(2000, sigma=2.0) for _ in range(2))
    assert first != second
    low = np.bincount([draw % 16 for draw in first + second], minlength=16)
    assert stats.chisquare(low).pvalue > 1e-6


def test_a_seed_repeats() -> None:
    assert SeededVoteNoise(1).draw(5, sigma=2.0) == SeededVoteNoise(1).draw(5, sigma=2.0)
    assert SeededVoteNoise(1).draw(5, sigma=2.0) != SeededVoteNoise(2).draw(5, sigma=2.0)
    assert SecureVoteNoise().is_secure
    assert not SeededVoteNoise(1).is_secure


def test_the_lattice_is_as_near_to_the_continuous_gaussian_as_stated() -> None:
    """At steps of 2^-3 to 2^-5: total variation at most h^2 / (16 sigma^2), so 2^-68 at 2^-32."""
    for bits in (3, 4, 5):
        step, points = 2.0**-bits, np.arange(-10 * 2**bits, 10 * 2**bits + 1)
        lattice = discrete_gaussian(2.0**bits, 10 * 2**bits)
        cells = stats.norm.cdf((points + 0.5) * step) - stats.norm.cdf((points - 0.5) * step)
        distance = np.abs(lattice - cells).sum() / 2
        assert 0.005 * step**2 < distance < step**2 / 16


@pytest.mark.parametrize("sigma", [0.0, 0.5, -1.0, float("nan"), float("inf")])
def test_noise_that_protects_nobody_is_refused(sigma: float) -> None:
    with pytest.raises(ConfigError, match="Expected 1 <= sigma"):
        SecureVoteNoise().draw(1, sigma=sigma)
