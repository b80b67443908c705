"""Numbers under local privacy: law, expectation, variance, bounds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from reticent.errors import ConfigError, DataError
from reticent.release.local.draws import ExperimentSource, SecureSource
from reticent.release.local.numeric import (
    HYBRID_FROM,
    Duchi,
    Hybrid,
    MeanEstimate,
    NumericMechanism,
    Piecewise,
    from_unit,
    mean_estimate,
    to_unit,
)

MECHANISMS = [Duchi, Piecewise, Hybrid]


@pytest.mark.parametrize("epsilon", [0.5, 1.5, 4.0])
def test_spreads_are_those_of_the_paper(epsilon: float) -> None:
    """Wang et al. 2019: the variances of Duchi's, the piecewise and the hybrid mechanism."""
    h, e = math.exp(epsilon / 2), math.exp(epsilon)
    c = (e + 1) / (e - 1)
    piecewise = ((h + 3) / (3 * (h - 1) ** 2), 1 / (h - 1))
    assert Duchi(epsilon=epsilon).spread == pytest.approx((c**2, -1.0))
    assert Piecewise(epsilon=epsilon).spread == pytest.approx(piecewise, rel=1e-5)
    share = 1 - 1 / h if epsilon > 0.61 else 0.0
    mixed = (share * piecewise[0] + (1 - share) * c**2, share * piecewise[1] - (1 - share))
    assert Hybrid(epsilon=epsilon).spread == pytest.approx(mixed, rel=1e-5, abs=1e-6)
    assert Piecewise(epsilon=epsilon).size == pytest.approx((h + 1) / (h - 1), rel=1e-5)


def test_the_hybrid_changes_where_the_two_worst_variances_meet() -> None:
    assert pytest.approx(0.61, abs=0.001) == HYBRID_FROM
    above = Hybrid(epsilon=HYBRID_FROM + 0.02).spread
    assert max(above[0], sum(above)) < Duchi(epsilon=HYBRID_FROM + 0.02).spread[0]


@pytest.mark.parametrize("cells", [4, 64, 101])
def test_the_grid_is_unbiased_with_the_stated_variance_exactly(cells: int) -> None:
    made = Piecewise(epsilon=1.5, cells=cells)
    room = cells - made.window
    for start in range(0, room + 1, max(1, room // 7)):
        x = 2 * start / room - 1
        law = made.likelihoods(x)
        places = {cell: made.size * ((2 * cell + 1) / cells - 1) for cell in law}
        mean = sum(float(p) * places[cell] for cell, p in law.items())
        spread = sum(float(p) * (places[cell] - mean) ** 2 for cell, p in law.items())
        assert mean == pytest.approx(x, abs=1e-12)
        assert spread == pytest.approx(made.spread[0] + made.spread[1] * x**2, rel=1e-12)


def test_density_ratio_and_pieces_are_those_of_the_paper() -> None:
    """Wang et al. 2019: density p in [l, r], p / e**epsilon elsewhere."""
    epsilon, x, cells = 1.5, 0.3, 2**16
    made = Piecewise(epsilon=epsilon, cells=cells)
    h = math.exp(epsilon / 2)
    c = (h + 1) / (h - 1)
    left = (c + 1) / 2 * x - (c - 1) / 2
    density = (h**2 - h) / (2 * h + 2)
    for cell, chance in made.likelihoods(x).items():
        place = made.size * ((2 * cell + 1) / cells - 1)
        if min(abs(place - left), abs(place - left - c + 1)) < 1e-3:
            continue
        inside = left < place < left + c - 1
        expected = density if inside else density / math.exp(epsilon)
        assert float(chance) * cells / (2 * made.size) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("x", [-1.0, -0.37, 0.0, 1.0])
def test_piecewise_draws_follow_the_listed_law(x: float) -> None:
    made = Piecewise(epsilon=1.1, cells=32)
    reports = made.randomise(np.full(60_000, x), ExperimentSource(5))
    cells = np.rint(((reports / made.size + 1) * 32 - 1) / 2).astype(int)
    law = np.array([float(chance) for chance in made.likelihoods(x).values()])
    assert stats.chisquare(np.bincount(cells, minlength=32), law * len(reports)).pvalue > 1e-4
    shifted = np.array([float(chance) for chance in made.likelihoods(x / 2 + 0.3).values()])
    wrong = stats.chisquare(np.bincount(cells, minlength=32), shifted * len(reports)).pvalue
    assert wrong < 1e-12


@pytest.mark.parametrize("kind", MECHANISMS)
@pytest.mark.parametrize("x", [-0.8, 0.0, 1.0])
def test_means_and_variances_and_not_a_tenth_off(kind: type, x: float) -> None:
    mechanism: NumericMechanism = kind(epsilon=1.4)
    reports = mechanism.randomise(np.full(200_000, x), ExperimentSource(3))
    stated = mechanism.spread[0] + mechanism.spread[1] * x**2
    assert abs(reports.mean() - x) < 4.5 * math.sqrt(stated / len(reports))
    ratio = float(((reports - x) ** 2).mean() / stated)
    error = float(((reports - x) ** 2).std() / stated / math.sqrt(len(reports)))
    assert error < 0.006
    assert abs(ratio - 1) < 4.5 * error + 1e-9
    for factor in (0.9, 1.1):
        assert abs(ratio / factor - 1) > 4.5 * error


@pytest.mark.parametrize("kind", MECHANISMS)
def test_the_standard_error_is_that_of_the_people_asked(kind: type) -> None:
    mechanism: NumericMechanism = kind(epsilon=2.0)
    values = np.random.default_rng(0).uniform(-1, 0.5, 2000)
    found = [
        mean_estimate(mechanism, mechanism.randomise(values, ExperimentSource(seed)))
        for seed in range(300)
    ]
    misses = np.array([(item.mean - values.mean()) / item.standard_error for item in found])
    assert abs(misses.mean()) < 0.26
    assert 0.85 < misses.std() < 1.15


def test_bounds_are_public_and_values_are_clamped_to_them() -> None:
    assert to_unit([0, 50, 100, 900, -3], 0, 100).tolist() == [-1, 0, 1, 1, -1]
    assert from_unit(MeanEstimate(mean=0.5, standard_error=0.1, reports=7), 0, 100) == MeanEstimate(
        mean=75.0, standard_error=5.0, reports=7
    )
    for lower, upper in ((1, 1), (2, 1), (math.nan, 1), (0, math.inf), (-1.7e308, 1.7e308)):
        with pytest.raises(ConfigError, match="known without the data"):
            to_unit([1.0], lower, upper)
    with pytest.raises(DataError, match="NaN or infinity"):
        to_unit([math.nan], 0, 1)
    with pytest.raises(DataError, match="Expected numbers"):
        Duchi(epsilon=1.0).randomise(["a"], SecureSource())
    with pytest.raises(DataError, match="at least one report"):
        mean_estimate(Duchi(epsilon=1.0), [])
    with pytest.raises(ConfigError, match="cells"):
        Piecewise(epsilon=1.0, cells=3)


@pytest.mark.parametrize("kind", MECHANISMS)
def test_inputs_beyond_the_bounds_cannot_raise_the_ratio(kind: type) -> None:
    mechanism: NumericMechanism = kind(epsilon=1.0) if kind is Duchi else kind(epsilon=1, cells=16)
    assert mechanism.likelihoods(1e30) == mechanism.likelihoods(1.0)
    assert mechanism.likelihoods(-1e30) == mechanism.likelihoods(-1.0)
