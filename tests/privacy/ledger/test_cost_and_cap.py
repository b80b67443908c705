"""Costs and caps: against slow recomputation, closed forms, and whole mechanisms enumerated."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, optimize, stats

from reticent.errors import ConfigError
from reticent.privacy.ledger import (
    ORDERS,
    Cap,
    Cost,
    approximate_dp,
    epsilon_at,
    gaussian,
    pure_dp,
    rdp,
    zcdp,
)
from reticent.privacy.ledger.cost import FREE

UNIT = 1e-12


def summed(costs: list[Cost]) -> Cost:
    return sum(costs, FREE)


def gaussian_delta(epsilon: float, sigma: float) -> float:
    """The exact delta of a Gaussian mechanism (Balle & Wang 2018, theorem 8)."""
    upper = stats.norm.cdf(1 / (2 * sigma) - epsilon * sigma)
    return float(upper - math.exp(epsilon) * stats.norm.cdf(-1 / (2 * sigma) - epsilon * sigma))


@pytest.mark.parametrize("sigma", [0.7, 2.0, 25.0])
def test_gaussian_curve_is_the_renyi_divergence(sigma: float) -> None:
    for order, spent in zip(ORDERS[:12], gaussian(noise_multiplier=sigma).curve, strict=False):
        # log of the integral of p^a q^(1 - a), the definition.
        centre = order  # where the integrand peaks
        shift = order * stats.norm.logpdf(centre, 1, sigma)
        shift += (1 - order) * stats.norm.logpdf(centre, 0, sigma)

        def integrand(x: float, order: float = order, shift: float = shift) -> float:
            log_p, log_q = stats.norm.logpdf(x, 1, sigma), stats.norm.logpdf(x, 0, sigma)
            return math.exp(order * log_p + (1 - order) * log_q - shift)

        area = integrate.quad(integrand, centre - 12 * sigma, centre + 12 * sigma)[0]
        assert spent * UNIT == pytest.approx((math.log(area) + shift) / (order - 1), rel=1e-6)


@given(epsilon=st.floats(1e-6, 20))
@settings(max_examples=60, deadline=None)
def test_pure_dp_curve_is_that_of_randomised_response(epsilon: float) -> None:
    cost = pure_dp(epsilon=epsilon)
    e = np.longdouble(epsilon)
    p, q = 1 / (1 + np.exp(-e)), 1 / (1 + np.exp(e))
    for order, spent in zip(ORDERS, cost.curve, strict=True):
        a = np.longdouble(order)
        if a * e > 5000:
            continue
        true = np.log1p(p * np.expm1((a - 1) * e) + q * np.expm1((1 - a) * e)) / (a - 1)
        assert spent * UNIT >= true * (1 - 1e-15)
        rounding = 1e-11 + 1e-14 / (order - 1)
        assert spent * UNIT <= min(epsilon, true * (1 + 1e-9)) * (1 + 1e-11) + rounding
        # Bun & Steinke 2016, proposition 3.3 is a looser bound on the same.
        assert spent * UNIT <= order * epsilon**2 / 2 * (1 + 1e-9) + 1e-11


costs = st.one_of(
    st.builds(lambda s: gaussian(noise_multiplier=s), st.floats(0.1, 1e4)),
    st.builds(lambda e: pure_dp(epsilon=e), st.floats(1e-4, 5)),
    st.builds(lambda r: zcdp(rho=r), st.floats(1e-9, 3)),
    st.builds(
        lambda e, d: approximate_dp(epsilon=e, delta=d), st.floats(1e-4, 2), st.floats(0, 1e-7)
    ),
)


@given(st.lists(costs, min_size=1, max_size=12), st.randoms(use_true_random=False))
@settings(max_examples=80, deadline=None)
def test_sums_are_exact_in_any_order(parts: list[Cost], random: object) -> None:
    forward = summed(parts)
    shuffled = list(parts)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert summed(shuffled) == forward
    for at in range(len(ORDERS)):
        column = [part.curve[at] for part in parts]
        expected = None if None in column else sum(Fraction(item) for item in column)
        assert forward.curve[at] == expected
    assert Cost.from_json(forward.to_json()) == forward


@given(st.lists(costs, min_size=1, max_size=8), st.sampled_from([1e-3, 1e-5, 1e-9]))
@settings(max_examples=80, deadline=None)
def test_epsilon_is_canonnes_formula_and_bisection_agrees(parts: list[Cost], delta: float) -> None:
    total = summed(parts)
    left = float(Fraction(str(delta)) - Fraction(total.delta, 10**24))
    if left <= 0:
        return
    best = math.inf
    for order, spent in zip(ORDERS, total.curve, strict=True):
        if spent is None:
            continue

        def log_excess(epsilon: float, a: float = order, s: float = spent * UNIT) -> float:
            # Proposition 12 as printed: delta = e^((a-1)(s-eps)) / (a-1) (1 - 1/a)^a
            return (
                (a - 1) * (s - epsilon) - math.log(a - 1) + a * math.log(1 - 1 / a) - math.log(left)
            )

        best = min(best, optimize.brentq(log_excess, -400, 400 + spent * UNIT, xtol=1e-12))
    if total.pure is not None:
        best = min(best, total.pure * UNIT)
    assert epsilon_at(total, delta) == pytest.approx(max(0.0, best), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("sigma", [1.0, 4.0, 20.0])
@pytest.mark.parametrize("delta", [1e-3, 1e-6])
def test_epsilon_of_a_gaussian_is_above_the_exact_one_and_near(sigma: float, delta: float) -> None:
    found = epsilon_at(gaussian(noise_multiplier=sigma), delta)
    exact = optimize.brentq(lambda e: gaussian_delta(e, sigma) - delta, 0, 50)
    assert exact <= found <= 1.25 * exact


def test_epsilon_of_a_hundred_gaussians_as_other_accountants_have_it() -> None:
    # sigma 10, 100 times, delta 1e-5: exact 4.377; by RDP on fine orders 4.729 (dp-accounting).
    found = epsilon_at(gaussian(noise_multiplier=10, count=100), 1e-5)
    assert 4.7285 < found < 1.01 * 4.729


@pytest.mark.parametrize(("epsilon", "delta"), [(0.3, 1e-6), (1.0, 1e-5), (8.0, 1e-7)])
def test_a_filled_cap_never_shows_more_than_it_grants(epsilon: float, delta: float) -> None:
    cap = Cap(epsilon=epsilon, delta=delta)
    for make in (
        lambda x: gaussian(noise_multiplier=1 / x),
        lambda x: pure_dp(epsilon=x),
        lambda x: summed([pure_dp(epsilon=x)] * 50),
        lambda x: approximate_dp(epsilon=x, delta=delta / 2),
    ):
        low, high = 1e-6, 100.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if cap.admits(make(middle)) else (low, middle)
        assert epsilon_at(make(low), delta) <= epsilon * (1 + 1e-12)
        # Adaptivity and direct deltas cost something, but not the budget.
        assert epsilon_at(make(low), delta) >= 0.85 * epsilon


def test_the_shares_of_delta_add_up_to_what_was_granted() -> None:
    for direct in (None, 0.0, 2e-6):
        cap = Cap(epsilon=1.0, delta=1e-5, direct_delta=direct)
        total = math.fsum(cap.shares) + cap.direct_delta
        assert total == pytest.approx(1e-5, rel=1e-12)
        for order, share, limit in zip(ORDERS, cap.shares, cap.limits, strict=True):
            if limit >= 0:
                spent = (order - 1) * (limit * UNIT - 1.0)
                reached = math.exp(spent) * (1 - 1 / order) ** order / (order - 1)
                assert reached <= share
                assert reached >= 0.99 * share


def test_basic_composition_fills_a_cap_to_the_brim() -> None:
    cap = Cap(epsilon=1.0, delta=1e-5, direct_delta=1e-5)
    parts = [approximate_dp(epsilon=0.1, delta=1e-6)] * 10
    assert cap.admits(summed(parts))
    assert not cap.admits(summed([*parts, approximate_dp(epsilon=1e-6, delta=0)]))
    assert not cap.admits(summed([*parts[:9], approximate_dp(epsilon=0.1, delta=1.1e-6)]))
    pure = Cap(epsilon=1.0, delta=0.0)
    assert pure.admits(summed([pure_dp(epsilon=0.1)] * 10))
    assert not pure.admits(gaussian(noise_multiplier=1e6))


def adaptive_delta(cap: Cap, steps: int, menu: list[float]) -> float:
    """The worst delta at the cap's epsilon over ALL adaptive strategies, by enumeration.

    Each step runs epsilon_i-randomised response with a cost from `menu` that the cap still
    admits, chosen from the outputs so far; the worst strategy maximises the hockey-stick
    divergence, by dynamic programming over (charges, privacy loss).
    """

    def worst(spent: Cost, log_p: float, log_q: float, left: int) -> float:
        best = max(math.exp(log_p) - math.exp(cap.epsilon + log_q), 0.0)
        for epsilon in menu if left else []:
            total = spent + pure_dp(epsilon=epsilon)
            if cap.admits(total):
                high, low = -math.log1p(math.exp(-epsilon)), -math.log1p(math.exp(epsilon))
                best = max(
                    best,
                    worst(total, log_p + high, log_q + low, left - 1)
                    + worst(total, log_p + low, log_q + high, left - 1),
                )
        return best

    return worst(FREE, 0.0, 0.0, steps)


def test_the_filter_holds_against_every_adaptive_strategy() -> None:
    cap = Cap(epsilon=1.2, delta=0.2, direct_delta=0.0)
    reached = adaptive_delta(cap, 5, [0.4, 0.7, 1.1])
    assert 0 < reached <= cap.delta


def test_a_filter_twice_as_generous_is_caught_by_the_same_enumeration() -> None:
    class Generous(Cap):
        def admits(self, total: Cost) -> bool:
            halved = Cost(
                curve=tuple(None if item is None else item // 4 for item in total.curve),
                pure=None if total.pure is None else total.pure // 4,
            )
            return super().admits(halved)

    cap = Generous(epsilon=1.2, delta=0.2, direct_delta=0.0)
    assert adaptive_delta(cap, 5, [0.4, 0.7, 1.1]) > cap.delta


def test_foreign_orders_are_read_upwards() -> None:
    cost = rdp([1.5, 2.2, 40], [0.1, 0.2, 0.9])
    by_order = dict(zip(ORDERS, cost.curve, strict=True))
    assert by_order[1.25] == by_order[1.5] == pytest.approx(0.1 / UNIT)
    assert by_order[2.0] == pytest.approx(0.2 / UNIT)
    assert by_order[2.5] == by_order[40.0] == pytest.approx(0.9 / UNIT)
    assert by_order[48.0] is None
    assert cost.pure is None
    assert rdp([2, math.inf], [0.1, 0.5]).pure == pytest.approx(0.5 / UNIT)


@pytest.mark.parametrize(
    "make",
    [
        lambda: gaussian(noise_multiplier=0),
        lambda: gaussian(noise_multiplier=math.nan),
        lambda: gaussian(noise_multiplier=1, count=0),
        lambda: pure_dp(epsilon=-1),
        lambda: pure_dp(epsilon=math.inf),
        lambda: approximate_dp(epsilon=1, delta=1),
        lambda: approximate_dp(epsilon=1, delta=-1e-9),
        lambda: rdp([2, 1.5], [1, 1]),
        lambda: rdp([2, 3], [1]),
        lambda: rdp([2, 3], [1, math.nan]),
        lambda: rdp([1, 3], [1, 1]),
        lambda: rdp([], []),
        lambda: Cap(epsilon=0, delta=0),
        lambda: Cap(epsilon=1, delta=1),
        lambda: Cap(epsilon=math.nan, delta=0.1),
        lambda: Cap(epsilon=1, delta=0.1, direct_delta=0.2),
        lambda: Cost(curve=(-1,) * len(ORDERS), pure=0),
        lambda: Cost(curve=(0,), pure=0),
    ],
)
def test_what_is_no_cost_is_refused(make: object) -> None:
    with pytest.raises(ConfigError, match="Expected"):
        make()  # type: ignore[operator]


def test_costs_round_up_and_never_down() -> None:
    for value in itertools.chain([1e-13, 0.1, 1 / 3], np.logspace(-12, 2, 15)):
        spent = zcdp(rho=float(value)).curve
        assert all(
            Fraction(item, 10**12) >= Fraction(float(value)) * Fraction(order)
            for item, order in zip(spent, ORDERS, strict=True)
        )
