"""Exhaustive proof: over all pairs of values and all reports, no ratio exceeds e**epsilon."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
from local_oracles import RAPPOR, SMALL, exp_above

from reticent.errors import ConfigError
from reticent.release.local.numeric import Duchi, Hybrid, NumericMechanism, Piecewise
from reticent.release.local.proof import largest_ratio
from reticent.release.local.rappor import Rappor
from reticent.release.local.response import RandomisedResponse
from reticent.release.local.weights import exp_below, two_weights

EPSILONS = (1e-6, 0.1, 0.5, 1.0, 2.0, 3.7, 8.0, 20.0)
INPUTS = [*np.linspace(-1, 1, 23).tolist(), 1e-17, -0.9999999999999999]


@pytest.mark.parametrize("epsilon", EPSILONS)
@pytest.mark.parametrize("k", [2, 3, 6])
@pytest.mark.parametrize("name", SMALL)
def test_no_ratio_exceeds_e_to_the_epsilon_and_the_largest_comes_to_it(
    name: str, k: int, epsilon: float
) -> None:
    oracle = SMALL[name](k, epsilon)
    found = largest_ratio([oracle.likelihoods(value) for value in range(k)])
    limit = exp_above(epsilon)
    assert 1 < found <= limit
    assert found / limit > 1 - Fraction(1, 10**8)


@pytest.mark.parametrize("epsilon", [0.5, 2.0, 8.0])
@pytest.mark.parametrize("hashes", [1, 2])
def test_rappor_keeps_both_its_epsilons(epsilon: float, hashes: int) -> None:
    oracle = Rappor(categories=4, epsilon=epsilon, bits=6, hashes=hashes, cohorts=4)
    filters = oracle.filters
    apart = max(
        int((filters[c, a] != filters[c, b]).sum())
        for c in range(4)
        for a, b in itertools.combinations(range(4), 2)
    )
    assert apart == 2 * hashes  # the worst case of the claim is among these filters
    kept = largest_ratio([oracle.permanent_likelihoods(value) for value in range(4)])
    once = largest_ratio([oracle.likelihoods(value) for value in range(4)])
    assert exp_above(epsilon) * (1 - Fraction(1, 10**8)) < kept <= exp_above(epsilon)
    limit = exp_above(oracle.report_epsilon)
    assert limit * (1 - Fraction(1, 10**8)) < once <= limit
    assert oracle.report_epsilon < epsilon
    assert RAPPOR(4, epsilon).epsilon == epsilon


@pytest.mark.parametrize("epsilon", EPSILONS)
@pytest.mark.parametrize("make", [Duchi, lambda **g: Piecewise(cells=64, **g)])
def test_numbers_keep_epsilon_exactly_and_reach_it(make: object, epsilon: float) -> None:
    mechanism: NumericMechanism = make(epsilon=epsilon)  # type: ignore[operator]
    found = largest_ratio([mechanism.likelihoods(x) for x in INPUTS])
    limit = exp_above(epsilon)
    assert limit * (1 - Fraction(1, 10**8)) < found <= limit


@pytest.mark.parametrize("epsilon", [0.3, 1.0, 4.0])
def test_the_hybrid_keeps_epsilon(epsilon: float) -> None:
    mechanism = Hybrid(epsilon=epsilon, cells=32)
    assert largest_ratio([mechanism.likelihoods(x) for x in INPUTS]) <= exp_above(epsilon)


def test_a_mechanism_rounded_the_wrong_way_is_caught() -> None:
    oracle = RandomisedResponse(categories=3, epsilon=1.0)
    high, low = oracle.weights
    oracle.__dict__["weights"] = (high + 1, low)
    assert largest_ratio([oracle.likelihoods(value) for value in range(3)]) > exp_above(1.0)


def test_what_is_no_distribution_or_tells_a_value_for_certain_is_refused() -> None:
    half = Fraction(1, 2)
    with pytest.raises(ConfigError, match="sum to 1"):
        largest_ratio([{0: half}])
    with pytest.raises(ConfigError, match="No epsilon holds"):
        largest_ratio([{0: half, 1: half}, {0: Fraction(1)}])


def test_the_exponential_is_below_and_close() -> None:
    for exponent in (0.0, 1e-6, 1.0, 1 / 3, 20.0):
        found, limit = exp_below(Fraction(exponent)), exp_above(exponent)
        assert 0 < 1 - found / limit < Fraction(1, 10**55)


def test_weights_that_cannot_express_epsilon_are_refused() -> None:
    with pytest.raises(ConfigError, match="Lower epsilon, or use fewer categories"):
        two_weights(exp_below(Fraction(20)), heavy=2**26, light=2**26)
    high, low = two_weights(Fraction(3), heavy=2, light=5)
    assert 2 * high + 5 * low <= 2**62 < 2 * (high + 3) + 5 * (low + 1)
