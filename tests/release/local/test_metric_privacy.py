"""Metric privacy: the law of the noise, the ratio that it gives, and a name that claims no more."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
from scipy import stats

from reticent.errors import ConfigError, DataError
from reticent.release.local.draws import ExperimentSource, SecureSource
from reticent.release.local.metric import MetricLaplace, nearest


@pytest.mark.parametrize(("rate", "dimensions"), [(0.5, 2), (3.0, 1), (2.0, 16)])
def test_lengths_are_gamma_and_a_tenth_off_is_seen(rate: float, dimensions: int) -> None:
    made = MetricLaplace(rate=rate, dimensions=dimensions)
    noise = made.randomise(np.zeros((20_000, dimensions)), ExperimentSource(1))
    lengths = np.linalg.norm(noise, axis=1)
    assert stats.kstest(lengths, stats.gamma(dimensions, scale=1 / rate).cdf).pvalue > 1e-3
    assert lengths.mean() == pytest.approx(made.mean_distance, rel=0.03)
    for factor in (0.9, 1.1):
        wrong = stats.gamma(dimensions, scale=factor / rate).cdf
        assert stats.kstest(lengths, wrong).pvalue < 1e-6


def test_directions_are_uniform() -> None:
    noise = MetricLaplace(rate=1.0, dimensions=2).randomise(
        np.zeros((20_000, 2)), ExperimentSource(2)
    )
    angles = np.arctan2(noise[:, 1], noise[:, 0]) / (2 * np.pi) + 0.5
    assert stats.kstest(angles, stats.uniform.cdf).pvalue > 1e-3


def test_the_log_density_ratio_is_at_most_rate_times_distance() -> None:
    """The density is proportional to e**(-rate |z - x|): the triangle inequality, in samples."""
    rng = np.random.default_rng(0)
    made = MetricLaplace(rate=1.7, dimensions=3)
    x, y, z = rng.normal(size=(3, 5000, 3))
    ratio = 1.7 * (np.linalg.norm(z - y, axis=1) - np.linalg.norm(z - x, axis=1))
    bound = made.privacy.nats_at(1.0) * np.linalg.norm(x - y, axis=1)
    assert (np.abs(ratio) <= bound + 1e-12).all()
    assert np.abs(ratio / bound).max() > 0.99


def test_it_is_named_as_what_it_is() -> None:
    told = json.dumps(asdict(MetricLaplace(rate=1.0, dimensions=2).privacy))
    assert "metric privacy, not differential privacy" in told
    assert "epsilon" not in told


def test_outputs_lie_on_the_grid_and_inputs_in_the_ball() -> None:
    made = MetricLaplace(rate=1000.0, dimensions=2, radius=1.0)
    noisy = made.randomise([[300.0, 400.0], [0.1, 0.0], [0.0, 0.0]], SecureSource())
    assert noisy == pytest.approx(np.array([[0.6, 0.8], [0.1, 0.0], [0.0, 0.0]]), abs=0.05)
    step = 2.0**-20
    assert np.array_equal(noisy / step, np.round(noisy / step))


def test_the_nearest_word_is_the_nearest() -> None:
    rng = np.random.default_rng(1)
    points, words = rng.normal(size=(50, 4)), rng.normal(size=(9, 4))
    brute = [int(np.argmin(np.linalg.norm(words - point, axis=1))) for point in points]
    assert nearest(points, words).tolist() == brute


def test_what_is_no_point_or_rate_is_refused() -> None:
    made = MetricLaplace(rate=1.0, dimensions=2)
    for points in ([[np.nan, 0.0]], [[0.0]], [0.0, 1.0]):
        with pytest.raises(DataError, match="finite points of shape"):
            made.randomise(points, SecureSource())
    for wrong in ({"rate": 0.0}, {"rate": np.nan}, {"dimensions": 0}, {"radius": -1.0}):
        with pytest.raises(ConfigError, match="Expected"):
            MetricLaplace(**{"rate": 1.0, "dimensions": 2, **wrong})  # type: ignore[arg-type]
