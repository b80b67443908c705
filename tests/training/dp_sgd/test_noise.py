"""The noise is Gaussian, of the scale asked for and no other, and on its grid."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats

from reticent.errors import ConfigError
from reticent.training.dp_sgd.noise import Noise, SecureNoise, SeededNoise, grid

SOURCES: dict[str, Callable[[], Noise]] = {
    "secure": SecureNoise,
    "seeded": lambda: SeededNoise(3),
}
COUNT = 150_001


def drawn(noise: Noise, sigma: float, clip_norm: float = 1.0) -> np.ndarray:
    flat = torch.zeros(COUNT)
    noise.add_to(flat, sigma=sigma, clip_norm=clip_norm)
    return flat.double().numpy()


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("sigma", [0.003, 1.7, 40.0])
def test_scale_and_shape(name: str, sigma: float) -> None:
    """Two-sided tests at 10^-6 each: a false alarm in less than 10^-5 of the runs.

    The same variance test rejects a scale wrong by a tenth, and the same Kolmogorov-Smirnov test
    a Laplace or uniform draw of the right variance.
    """
    values = drawn(SOURCES[name](), sigma) / sigma

    def variance_fits(scale: float) -> bool:
        low, high = stats.chi2(COUNT).ppf([5e-7, 1 - 5e-7]) / COUNT
        return bool(low <= np.mean((values / scale) ** 2) <= high)

    assert variance_fits(1.0)
    assert not variance_fits(0.9)
    assert not variance_fits(1.1)
    assert abs(values.mean()) * np.sqrt(COUNT) < 5
    assert stats.kstest(values, "norm").pvalue > 1e-6
    other = np.random.default_rng(0)
    assert stats.kstest(other.laplace(size=COUNT) / np.sqrt(2), "norm").pvalue < 1e-6
    assert stats.kstest(other.uniform(-(3**0.5), 3**0.5, COUNT), "norm").pvalue < 1e-6


@pytest.mark.parametrize("name", SOURCES)
def test_neighbours_and_halves_are_independent(name: str) -> None:
    values = drawn(SOURCES[name](), 1.0)
    for lag in (1, 2, 1 << 15, 1 << 16, COUNT // 2):
        correlation = np.mean(values[lag:] * values[:-lag]) * np.sqrt(COUNT - lag)
        assert abs(correlation) < 5
        squares = np.mean((values[lag:] ** 2 - 1) * (values[:-lag] ** 2 - 1)) / 2
        assert abs(squares) * np.sqrt(COUNT - lag) < 5


def test_tails_are_there() -> None:
    values = np.abs(np.concatenate([drawn(SecureNoise(), 1.0) for _ in range(8)]))
    for threshold in (3.0, 4.0):
        expected = 2 * stats.norm.sf(threshold) * len(values)
        assert abs((values > threshold).sum() - expected) < 5 * np.sqrt(expected) + 1


def test_secure_noise_lies_on_a_grid_that_holds_the_rounded_sum() -> None:
    flat = torch.randn(1000)
    step = grid(0.5, len(flat))
    assert step * len(flat) ** 0.5 <= 2.0**-17 * 0.5
    assert step * len(flat) ** 0.5 > 2.0**-18 * 0.5
    kept = flat.clone()
    SecureNoise().add_to(flat, sigma=1e-300, clip_norm=0.5)
    assert torch.equal(flat, (kept.double() / step).round().mul(step).float())
    SecureNoise().add_to(flat, sigma=1e-3, clip_norm=0.5)
    # Below 2^24 steps float32 is exact, so the grid must show.
    small = flat[flat.abs() < step * 2**24].double() / step
    assert torch.equal(small, small.round())


def test_a_seed_repeats_and_security_does_not() -> None:
    assert np.array_equal(drawn(SeededNoise(5), 1.0), drawn(SeededNoise(5), 1.0))
    assert not np.array_equal(drawn(SeededNoise(5), 1.0), drawn(SeededNoise(6), 1.0))
    assert not np.array_equal(drawn(SecureNoise(), 1.0), drawn(SecureNoise(), 1.0))
    assert SecureNoise.is_secure
    assert not SeededNoise.is_secure


def test_impossible_scales_are_refused() -> None:
    for sigma, clip_norm in ((-1.0, 1.0), (float("nan"), 1.0), (1.0, 0.0)):
        with pytest.raises(ConfigError, match="sigma"):
            drawn(SecureNoise(), sigma, clip_norm)
    with pytest.raises(ConfigError, match="grid"):
        drawn(SecureNoise(), 1e6, 1e-12)
