"""White-box bounds keep their error under the law they assume, and are near what they bound."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats
from white_box_ideal import RATE, declared, ideal

from reticent.audit.epsilon import gaussian_epsilon
from reticent.audit.white_box_bounds import (
    drawn_bound,
    drawn_ratio,
    guess_bound,
    insider_bound,
    insider_ratio,
    likelihoods,
    noise_limit,
    ratio_epsilon,
    sampled,
    sharpest_drawn_ratio,
)
from reticent.errors import UnsupportedError
from reticent.training.dp_sgd.accountant import Mechanism, epsilon

ERROR = 0.05


def wrong(bound: Callable[[np.random.Generator], bool], runs: int) -> int:
    rng = np.random.default_rng(7)
    return sum(bound(rng) for _ in range(runs))


def directions(rng: np.random.Generator, noise: float, count: int = 20_000) -> np.ndarray:
    """Spare directions with the sum of squares of `count` draws, which is all the bounds use."""
    return np.full((1, count), noise * math.sqrt(rng.chisquare(count) / count))


def assert_keeps(errors: int, runs: int, error: float = ERROR) -> None:
    """At most the nominal error, and not so few that the bound is idle (chance 1e-4 each)."""
    assert stats.binom.sf(errors - 1, runs, error) > 1e-4, errors
    assert stats.binom.cdf(errors, runs, 0.6 * error) > 1e-4, errors


def test_the_drawn_ratio_errs_as_often_as_it_says() -> None:
    def over(rng: np.random.Generator) -> bool:
        moved, spare = rng.normal(0.8, 1.3, 150), directions(rng, 1.3)
        return drawn_ratio(moved, spare, ERROR) > 0.8 / 1.3

    assert_keeps(wrong(over, 3000), 3000)


def test_the_insider_ratio_errs_as_often_as_it_says_where_draws_are_few() -> None:
    """20 canaries, 5 steps, 10 draws expected: far from any limit theorem."""

    def over(rng: np.random.Generator) -> bool:
        draws = rng.binomial(5, 0.1, 20)
        totals = 2.0 * draws + math.sqrt(5) * 0.4 * rng.standard_normal(20)
        found = insider_ratio(totals, directions(rng, 0.4), ERROR, steps=5, probability=0.1)
        return found > 2.0 / 0.4

    errors = wrong(over, 3000)
    assert stats.binom.sf(errors - 1, 3000, ERROR) > 1e-4
    # Counts of draws are whole numbers, so the bound can't use all of its error.
    assert errors > 0


def test_the_insider_ratio_without_sampling_is_the_normal_limit() -> None:
    """q = 1: the mean of k totals is N(T c, T tau^2 / k), solved by hand."""
    rng = np.random.default_rng(0)
    spare = rng.normal(0, 1.5, (10, 5000))
    totals = 10 * 1.0 + math.sqrt(10) * 1.5 * rng.standard_normal(400)
    scale = noise_limit(spare, 0.005)
    by_hand = (totals.sum() / scale / math.sqrt(4000) + stats.norm.ppf(0.045)) / math.sqrt(4000)
    found = insider_ratio(totals, spare, ERROR, steps=10, probability=1.0)
    assert found == pytest.approx(by_hand, rel=1e-8)
    assert 0.9 / 1.5 < found < 1 / 1.5


def test_noise_limits_err_as_often_as_they_say() -> None:
    errors = wrong(lambda rng: noise_limit(rng.normal(0, 2, (4, 25)), ERROR) < 2, 4000)
    assert_keeps(errors, 4000)


def test_canaries_that_move_the_sum_less_only_lower_the_ratios() -> None:
    """The bounds speak about the canary that moves the sum most."""
    moves, shown = np.where(np.arange(300) % 2, 1.0, 0.3), []
    for seed in range(20):
        sight = ideal(seed, canaries=300, moves=moves)
        assert sharpest_drawn_ratio(sight, 0.05) <= 1 / 1.2
        totals = sight.scores[:, sight.included].sum(axis=0)
        found = insider_ratio(totals, sight.spare, 0.05, steps=20, probability=RATE)
        assert found <= 1 / 1.2
        shown.append(found)
    assert np.mean(shown) > 0.1


def test_the_sharpest_of_six_groups_errs_as_often_as_it_says() -> None:
    """Canaries together and by route: the choice is paid for."""

    def over(rng: np.random.Generator) -> bool:
        sight = ideal(int(rng.integers(1 << 31)), canaries=50, others=1, steps=10)
        spare = directions(rng, 1.2)
        return sharpest_drawn_ratio(dataclasses.replace(sight, spare=spare), 0.2) > 1 / 1.2

    errors = wrong(over, 500)
    assert stats.binom.sf(errors - 1, 500, 0.2) > 1e-4
    assert errors > 40


def test_a_route_that_moves_the_sum_more_is_found_among_the_others() -> None:
    moves = np.where(np.arange(300) % 5 == 2, 2.0, 1.0)
    found = sharpest_drawn_ratio(ideal(0, canaries=300, moves=moves), 0.01)
    assert 1.3 / 1.2 < found < 2 / 1.2


def test_epsilon_of_the_declared_ratio_is_the_accountants() -> None:
    given = declared(noise=2.4)
    exact = epsilon(given.mechanism, 1e-5)
    assert ratio_epsilon(1 / 2.4, given, 1e-5) == pytest.approx(exact, rel=1e-3)
    shown = [ratio_epsilon(share / 2.4, given, 1e-5) for share in (0.0, 0.5, 0.999, 1.2, 9)]
    assert shown == sorted(shown)
    assert shown[0] == 0
    assert shown[2] < exact < shown[3]
    assert shown[-1] == ratio_epsilon(1.5 / 2.4, given, 1e-5)


def test_epsilon_of_one_full_batch_is_the_gaussian_mechanisms() -> None:
    given = declared(noise=1.0, steps=1, rate=1.0)
    assert ratio_epsilon(1.0, given, 1e-5) == pytest.approx(gaussian_epsilon(1.0, 1e-5), rel=1e-3)


def test_likelihoods_are_those_of_the_mixture() -> None:
    sight = ideal(3, steps=6, canaries=20)
    inside = (1 - RATE) * stats.norm.pdf(sight.scores, 0, 1.2)
    inside += RATE * stats.norm.pdf(sight.scores, 1, 1.2)
    exact = np.log(inside / stats.norm.pdf(sight.scores, 0, 1.2)).sum(axis=0)
    np.testing.assert_allclose(likelihoods(sight, declared(steps=6)), exact, rtol=1e-9)


def test_guesses_need_no_gaussian_noise_and_see_a_leak() -> None:
    """No noise to speak of, and noise of another kind: right guesses show it all the same."""
    sight = ideal(0, canaries=400, noise=1.2, steps=40)
    clear = dataclasses.replace(sight, scores=np.where(sight.drawn, 1.0, 0.0))
    given = declared(steps=40)
    quiet = guess_bound(sight, given, delta=1e-5, error=0.05).epsilon
    loud = guess_bound(clear, given, delta=1e-5, error=0.05).epsilon
    assert quiet < epsilon(given.mechanism, 1e-5)
    assert loud > 3.5 > quiet


def test_power_is_what_less_noise_shows_on_average() -> None:
    """Three quarters of the declared noise is what these runs have."""
    given = declared(noise=1.6)
    runs = [ideal(seed, noise=1.2, canaries=1000) for seed in range(12)]
    typical = np.mean([sharpest_drawn_ratio(run, 0.01) for run in runs])
    promised = drawn_bound(runs[0], given, delta=1e-5, error=0.01).power
    assert promised == pytest.approx(ratio_epsilon(float(typical), given, 1e-5), rel=0.1)
    assert promised > epsilon(given.mechanism, 1e-5)
    weaker = insider_bound(runs[0], given, delta=1e-5, error=0.01).power
    assert 0 < weaker < promised


def test_other_batches_are_refused() -> None:
    given = dataclasses.replace(
        declared(), mechanism=Mechanism(noise_multiplier=1.0, steps=3, sampling_probability=None)
    )
    with pytest.raises(UnsupportedError, match="Poisson"):
        sampled(given)
