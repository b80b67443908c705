"""One-run audits: slow oracles, another library's figures, mechanisms of known epsilon."""

import json
import math
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from reticent.audit.epsilon import gaussian_epsilon, gaussian_mu
from reticent.audit.one_run import Guesses, approximate_inverse, audit_procedure
from reticent.errors import ConfigError, DataError
from reticent.guarantee import (
    Adversary,
    DifferentialPrivacy,
    Empirical,
    Guarantee,
    Pillar,
    Strength,
)
from reticent.random import seeded


def claim(epsilon: float, delta: float, strength: Strength | None = None) -> Guarantee:
    return Guarantee(
        id="dp",
        pillar=Pillar.TRAINING_DATA,
        adversary=Adversary(name="client", sees="the model", knows="the canaries"),
        strength=strength
        or DifferentialPrivacy(
            epsilon=epsilon, delta=delta, neighboring_relation="add or remove", unit="record"
        ),
        mechanism="noise",
        assumptions=(),
        source="",
    )


def steinke(guesses: Guesses, epsilon: float, delta: float) -> float:
    """Theorem 5.2 of Steinke et al. 2023 as it is printed."""
    null = stats.binom(guesses.made, math.exp(epsilon) / (1 + math.exp(epsilon)))

    def reaches(count: int) -> float:
        return float(null.sf(count - 1))

    v = guesses.correct
    slopes = [(reaches(v - i) - reaches(v)) / i for i in range(1, v + 1)] or [0.0]
    return min(1.0, reaches(v) + 2 * guesses.canaries * delta * max(slopes))


def linear_program(guesses: Guesses, epsilon: float, delta: float) -> float:
    """The greatest P[W >= v] under all inequalities of Mahloujifar et al. 2024, theorem 9."""
    m, c, v = guesses.canaries, guesses.made, guesses.correct
    lines = [(0.0, 1.0), (math.exp(epsilon), delta)]
    lines.append((math.exp(-epsilon), 1 - math.exp(-epsilon) * (1 - delta)))
    rows, bounds = [], []
    for j in range(1, v + 1):
        for slope, start in lines:
            row = np.zeros(c + 1)
            for i in range(j, c + 1):
                row[i] += i / m
                row[i - 1] -= slope * (c - i + 1) / m
            rows.append(row)
            bounds.append(start)
    goal = np.zeros(c + 1)
    goal[v:] = -1
    solved = optimize.linprog(
        goal, A_ub=rows, b_ub=bounds, A_eq=[np.ones(c + 1)], b_eq=[1], bounds=(0, 1)
    )
    return float(-solved.fun)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(2, 30),
    st.integers(2, 30),
    st.floats(0.4, 1),
    st.floats(0, 3),
    st.sampled_from([0.0, 1e-3, 0.02, 0.1]),
)
def test_the_p_value_is_the_lesser_of_both_theorems(
    canaries: int, made: int, share: float, epsilon: float, delta: float
) -> None:
    made = min(made, canaries)
    guesses = Guesses(canaries=canaries, made=made, correct=round(share * made))
    expected = min(steinke(guesses, epsilon, delta), linear_program(guesses, epsilon, delta))
    assert guesses.p_value(epsilon=epsilon, delta=delta) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("canaries", "made", "correct", "delta", "tail", "gaussian"),
    [
        (1_000, 1_000, 800, 1e-5, 1.253984, 2.333244),
        (1_000, 100, 99, 1e-3, 0.765165, 3.407136),
        (10_000, 1_000, 950, 1e-5, 2.690996, 3.802444),
        (10_000, 10_000, 6_000, 1e-3, 0.282047, 0.381681),
        (100_000, 2_000, 1_990, 1e-5, 3.930037, 5.979500),
    ],
)
def test_figures_of_another_library(
    canaries: int, made: int, correct: int, delta: float, tail: float, gaussian: float
) -> None:
    """jax-privacy 2.0.0, `epsilon_one_run` and `epsilon_one_run_fdp` for these counts."""
    guesses = Guesses(canaries=canaries, made=made, correct=correct)
    assert gaussian_epsilon(guesses.mu(), delta) == pytest.approx(gaussian, abs=2e-6)
    assert guesses.epsilon(delta=delta) >= tail - 2e-6


def test_where_many_canaries_meet_a_large_delta_the_curve_shows_more() -> None:
    guesses = Guesses(canaries=10_000, made=1_000, correct=950)
    assert guesses.epsilon(delta=1e-3) == pytest.approx(2.618, abs=1e-3)
    assert steinke(guesses, 0.37, 1e-3) > 0.05


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 400), st.floats(0.5, 1), st.sampled_from([0.0, 1e-4, 1e-2]))
def test_the_bound_is_where_the_p_value_crosses(made: int, share: float, delta: float) -> None:
    guesses = Guesses(canaries=400, made=made, correct=round(share * made))
    bound = guesses.epsilon(delta=delta)
    assert guesses.p_value(epsilon=bound * (1 + 1e-6) + 1e-9, delta=delta) > 0.05 - 1e-9
    if bound > 0:
        assert guesses.p_value(epsilon=bound * (1 - 1e-6), delta=delta) <= 0.05


def test_more_right_guesses_show_more() -> None:
    bounds = [
        Guesses(canaries=500, made=100, correct=w).epsilon(delta=1e-5) for w in range(40, 101)
    ]
    assert bounds == sorted(bounds)
    assert bounds[0] == 0.0
    assert bounds[-1] > 3.0


def test_randomised_response_meets_its_epsilon_and_is_rarely_flagged() -> None:
    """Every bit told truly with e^eps / (1 + e^eps): the worst case of the pure theorem."""
    epsilon, made = 1.0, 400
    wins = seeded(1, 1).binomial(made, 1 / (1 + math.exp(-epsilon)), 20_000)

    @cache
    def bound(correct: int) -> float:
        return Guesses(canaries=made, made=made, correct=correct).epsilon()

    flagged = np.mean([bound(int(w)) > epsilon for w in wins])
    assert 0.03 <= flagged <= 0.05
    broken = seeded(2, 1).binomial(made, 1 / (1 + math.exp(-10 * epsilon)), 200)
    assert np.mean([bound(int(w)) > epsilon for w in broken]) >= 0.95


def test_failures_with_probability_delta_are_rarely_flagged() -> None:
    """Randomised response that tells the plain truth with probability delta, per canary and for
    all canaries at once: both are (epsilon, delta)-private."""
    epsilon, delta, made = 0.5, 0.02, 200
    share = 1 / (1 + math.exp(-epsilon))
    rng = seeded(3, 1)
    single = rng.binomial(made, delta + (1 - delta) * share, 4_000)
    at_once = np.where(rng.random(4_000) < delta, made, rng.binomial(made, share, 4_000))

    @cache
    def bound(correct: int) -> float:
        return Guesses(canaries=made, made=made, correct=correct).epsilon(delta=delta)

    for wins in (single, at_once):
        assert np.mean([bound(int(w)) > epsilon for w in wins]) <= 0.05
    assert bound(made) > 2


def test_a_leak_of_all_canaries_at_once_within_the_gaussian_curve_is_not_flagged() -> None:
    """With probability .3 every bit is told with 84 % accuracy, else none is told at all.

    The trade-off curve has one corner, (.3 * .16, .3 * .84), which lies within that of mu = 1. The
    guesses are right together, so a bound that took canaries for independent would flag it in
    30 %.
    """
    corner = stats.norm.cdf(stats.norm.ppf(0.3 * 0.16) + 1.0)
    assert corner > 0.3 * 0.84
    rng = seeded(8, 1)
    accuracy = np.where(rng.random(2_000) < 0.3, 0.84, 0.5)

    @cache
    def mu(correct: int) -> float:
        return Guesses(canaries=1000, made=1000, correct=correct).mu()

    shown = np.asarray([mu(int(w)) for w in rng.binomial(1000, accuracy)])
    assert (shown > 1.0).mean() <= 0.05
    assert (shown > 0.5).mean() >= 0.25


def sums(noise: float, seed: int, canaries: int = 1000):  # type: ignore[no-untyped-def]
    """A sum of orthogonal canaries of norm 1 with Gaussian noise: the exact mechanism."""
    rng = seeded(seed, 7)
    return lambda included: included + rng.normal(0, noise, canaries)


@pytest.mark.slow
@pytest.mark.parametrize("epsilon", [1.0, 4.0])
def test_a_gaussian_mechanism_is_rarely_flagged_and_a_tenth_of_its_noise_always(
    epsilon: float,
) -> None:
    """200 whole audits each; the Gaussian bound is judged too."""
    delta = 1e-5
    noise = 1 / gaussian_mu(epsilon, delta)
    for scale, low, high in ((noise, 0.0, 0.05), (noise / 10, 0.95, 1.0)):
        flagged = np.zeros(2)
        for run in range(200):
            found = audit_procedure(
                sums(scale, run, 500),
                500,
                adversary="client",
                target="canary",
                guarantee=claim(epsilon, delta),
                gaussian=True,
                shares=(0.1, 0.8),
                seed=run,
            )
            flagged += [finding.contradicts is not None for finding in found]
        assert (low <= flagged / 200).all(), flagged
        assert (flagged / 200 <= high).all(), flagged


def test_the_gaussian_bound_comes_close_to_a_gaussian_mechanism() -> None:
    noise = 1 / gaussian_mu(4.0, 1e-5)
    free, gaussian = audit_procedure(
        sums(noise, 1, 10_000), 10_000, adversary="client", target="canary", delta=1e-5, seed=1
    )
    assert 2.5 < gaussian.value < 4.0
    assert 1.0 < free.value < gaussian.value


def test_a_memoriser_is_found_and_its_control_gives_power() -> None:
    found = audit_procedure(
        sums(1e-3, 1),
        1000,
        adversary="client",
        target="canary",
        guarantee=claim(2.0, 1e-5),
        control=sums(1e-3, 2),
        seed=1,
    )[0]
    assert found.contradicts == "dp"
    assert found.value > 4
    assert found.ceiling == pytest.approx(found.value)
    assert found.details["status"] == "violated"
    json.dumps(found.to_json(), allow_nan=False)


def test_a_procedure_that_ignores_its_canaries_shows_nothing() -> None:
    deaf = seeded(4, 1)
    free, gaussian = audit_procedure(
        lambda included: deaf.normal(size=len(included)),
        1000,
        adversary="client",
        target="canary",
        guarantee=claim(2.0, 1e-5),
        control=sums(1e-3, 2),
        seed=5,
    )
    assert free.value == gaussian.value == 0.0
    assert free.details["status"] == "consistent"
    assert "status" not in gaussian.details


def test_too_few_canaries_or_a_weak_control_make_a_pass_inconclusive() -> None:
    deaf = seeded(4, 1)

    def status(canaries: int, control: object) -> str:
        found = audit_procedure(
            lambda included: deaf.normal(size=len(included)),
            canaries,
            adversary="client",
            target="canary",
            guarantee=claim(6.0, 1e-5),
            control=control,  # type: ignore[arg-type]
            shares=(0.8,),
            seed=5,
        )
        return str(found[0].details["status"])

    assert status(500, None) == "inconclusive (power)"
    assert status(10_000, sums(1.0, 1, 10_000)) == "inconclusive (power)"
    assert status(10_000, sums(1e-3, 1, 10_000)) == "consistent"


def test_runs_pool_into_more_canaries() -> None:
    one, many = (
        audit_procedure(
            sums(0.8, 3, 100), 100, adversary="a", target="c", delta=1e-5, runs=runs, seed=3
        )[1]
        for runs in (1, 20)
    )
    assert (one.n, many.n, many.seeds) == (100, 2000, 20)
    assert one.value < many.value


def test_the_surest_are_guessed() -> None:
    scores = np.array([5.0, 4.0, 3.0, 2.0, 1.0])
    coins = np.array([True, False, True, False, False])
    assert Guesses.of(scores, coins, high=2, low=2).correct == 3
    assert Guesses.of(scores, coins, high=1).correct == 1
    assert Guesses.of(scores, coins, high=3, low=2).made == 5


def test_scores_that_know_the_control_coins_are_refused() -> None:
    with pytest.raises(ConfigError, match="don't come from this training"):
        audit_procedure(
            lambda included: seeded(9, 3).random(len(included)) < 0.5,
            200,
            adversary="client",
            target="canary",
            delta=1e-5,
            seed=9,
        )


def test_unusable_audits_are_refused() -> None:
    def audit(train: object, **options: object) -> None:
        audit_procedure(train, 50, adversary="a", target="c", seed=1, **options)  # type: ignore[arg-type]

    with pytest.raises(DataError, match="one score per canary"):
        audit(lambda included: np.zeros(3), delta=0.0)
    with pytest.raises(DataError, match="without NaN"):
        audit(lambda included: np.full(50, np.nan), delta=0.0)
    with pytest.raises(ConfigError, match="delta"):
        audit(sums(1.0, 1, 50))
    with pytest.raises(ConfigError, match="claim's delta"):
        audit(sums(1.0, 1, 50), guarantee=claim(1.0, 1e-5), delta=1e-6)
    with pytest.raises(ConfigError, match="differential privacy"):
        audit(sums(1.0, 1, 50), guarantee=claim(1.0, 1e-5, strength=Empirical()))
    with pytest.raises(ConfigError, match="shares"):
        audit(sums(1.0, 1, 50), delta=0.0, shares=(1.5,))
    with pytest.raises(ConfigError, match="correct <= made"):
        Guesses(canaries=5, made=6, correct=1)


def test_the_inverse_blow_up_is_one() -> None:
    inverse = approximate_inverse(1.2, 0.01)
    for rate in (0.0, 0.03, 0.4, 0.9):
        grown = min(1.0, 0.01 + math.exp(1.2) * rate, 1 - math.exp(-1.2) * (1 - 0.01 - rate))
        assert inverse(grown) == pytest.approx(rate, abs=1e-12)
