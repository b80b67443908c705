"""Epsilons equal independent figures; truncation and users cost what they should."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from scipy import integrate, optimize, stats
from scipy.special import logsumexp

from reticent.errors import ConfigError
from reticent.training.dp_sgd.accountant import (
    Mechanism,
    calibrate,
    curve,
    epsilon,
    renyi_curve,
    renyi_epsilon,
)

pytest.importorskip("dp_accounting")


@pytest.mark.parametrize(
    ("noise", "probability", "steps", "delta", "expected"),
    [
        # Made once with dp-accounting 0.6.0 at 1e-4, and within 0.5 % by Opacus 1.6's PRV
        # accountant (Gopi et al. 2021), an independent computation.
        (1.1, 256 / 60000, 14040, 1e-5, 2.380),
        (1.0, 0.01, 1000, 1e-5, 1.828),
        (4.0, 0.1, 2500, 1e-5, 5.826),
        (3.0, 0.3, 875, 1e-5, 17.007),
    ],
)
def test_known_epsilons(
    noise: float, probability: float, steps: int, delta: float, expected: float
) -> None:
    mechanism = Mechanism(noise_multiplier=noise, steps=steps, sampling_probability=probability)
    found = epsilon(mechanism, delta)
    assert found == pytest.approx(expected, rel=5e-3)
    assert found <= renyi_epsilon(mechanism, delta)


def test_without_sampling_the_closed_form() -> None:
    """Balle and Wang 2018, Theorem 8, with sensitivity sqrt(T) / z."""
    mechanism = Mechanism(noise_multiplier=10.0, steps=100)
    mu = math.sqrt(100) / 10.0

    def excess(eps: float) -> float:
        delta = stats.norm.cdf(mu / 2 - eps / mu)
        return float(delta - math.exp(eps) * stats.norm.cdf(-mu / 2 - eps / mu) - 1e-5)

    exact = optimize.brentq(excess, 0.1, 20)
    assert exact == pytest.approx(4.377, abs=1e-3)
    assert exact - 1e-6 <= epsilon(mechanism, 1e-5) <= exact * 1.002


def test_an_unsampled_run_is_charged_unamplified() -> None:
    sampled = Mechanism(noise_multiplier=1.0, steps=100, sampling_probability=0.01)
    shuffled = Mechanism(noise_multiplier=1.0, steps=1)
    assert epsilon(shuffled, 1e-5) > 5 * epsilon(sampled, 1e-5)


def test_a_capacity_that_binds_costs_and_one_that_does_not_is_free() -> None:
    def at(capacity: int) -> float:
        return epsilon(
            Mechanism(
                noise_multiplier=1.0,
                steps=1000,
                sampling_probability=0.01,
                examples=10_000,
                capacity=capacity,
            ),
            1e-5,
        )

    free = epsilon(Mechanism(noise_multiplier=1.0, steps=1000, sampling_probability=0.01), 1e-5)
    assert at(170) == pytest.approx(free, rel=1e-3)
    assert at(130) > 1.5 * free


@pytest.mark.slow
def test_users_with_more_records_cost_more() -> None:
    costs = [
        epsilon(
            Mechanism(
                noise_multiplier=2.0,
                steps=30,
                sampling_probability=0.01,
                records_per_user=count,
            ),
            1e-5,
        )
        for count in (1, 2, 3)
    ]
    assert costs[0] < costs[1] < costs[2] < 8 * costs[0]


@pytest.mark.slow
@pytest.mark.parametrize("target", [0.5, 8.0])
def test_calibration_meets_its_target_from_below(target: float) -> None:
    plan = Mechanism(
        noise_multiplier=1.0,
        steps=1000,
        sampling_probability=0.01,
        examples=10_000,
        capacity=180,
    )
    start = time.process_time()
    found = calibrate(target, 1e-5, mechanism=plan)
    assert time.process_time() - start < 30
    assert found.capacity == 180
    assert target * 0.99 <= epsilon(found, 1e-5) <= target


def test_the_curve_falls_with_delta() -> None:
    mechanism = Mechanism(noise_multiplier=1.0, steps=100, sampling_probability=0.01)
    points = curve(mechanism, (1e-7, 1e-6, 1e-5))
    assert points[0] > points[1] > points[2] == pytest.approx(epsilon(mechanism, 1e-5))


@pytest.mark.parametrize(
    ("noise", "probability", "count"),
    [(0.8, 0.02, 1), (3.0, 0.4, 1), (1.0, 1.0, 1), (2.0, 0.1, 3), (6.0, 0.7, 4)],
)
def test_renyi_curves_equal_integrals_in_both_directions(
    noise: float, probability: float, count: int
) -> None:
    """The divergence of a sampled Gaussian with and without the unit's records, by quadrature."""
    orders = (2.0, 2.5, 5.0, 16.0)
    mechanism = Mechanism(
        noise_multiplier=noise,
        steps=7,
        sampling_probability=probability,
        records_per_user=count,
    )
    found = renyi_curve(mechanism, orders)

    def without(x: float) -> float:
        return float(stats.norm.logpdf(x, 0, noise))

    def with_it(x: float) -> float:
        drawn = stats.binom.pmf(np.arange(count + 1), count, probability)
        return float(logsumexp(stats.norm.logpdf(x, np.arange(count + 1), noise), b=drawn))

    for order, value in zip(orders, found, strict=True):
        integrals = [
            integrate.quad(
                lambda x, p=p, q=q, a=order: math.exp(a * p(x) + (1 - a) * q(x)),
                -30 * noise,
                30 * noise + count * order,
                limit=2000,
                points=(0, 1, count * order),
            )[0]
            for p, q in ((with_it, without), (without, with_it))
        ]
        exact = max(7 * math.log(each) / (order - 1) for each in integrals)
        # dp-accounting bounds fractional orders from above only.
        above = 1e-6 if order.is_integer() else math.inf
        assert exact * (1 - 1e-7) <= value <= exact * (1 + above) + 1e-9


def test_a_truncated_batch_has_no_renyi_curve() -> None:
    mechanism = Mechanism(
        noise_multiplier=1.0, steps=9, sampling_probability=0.1, examples=100, capacity=20
    )
    assert renyi_curve(mechanism, (2.0, 8.0)) == (math.inf, math.inf)


def test_impossible_plans_are_refused() -> None:
    with pytest.raises(ConfigError, match="noise_multiplier"):
        Mechanism(noise_multiplier=0.0, steps=10)
    with pytest.raises(ConfigError, match="delta"):
        epsilon(Mechanism(noise_multiplier=1.0, steps=10), 0.0)
    bounded = Mechanism(
        noise_multiplier=1.0,
        steps=10,
        sampling_probability=0.01,
        examples=1000,
        capacity=50,
        records_per_user=3,
    )
    with pytest.raises(ConfigError, match="truncation"):
        epsilon(bounded, 1e-5)
