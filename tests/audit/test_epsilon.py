"""Epsilon lower bounds: published anchors, mechanisms of known epsilon, broken mechanisms."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from reticent.audit.epsilon import (
    Confusion,
    best_threshold,
    dp_region,
    epsilon_finding,
    epsilon_lower_bound,
    epsilon_lower_bounds,
    gaussian_delta,
    gaussian_epsilon,
    gaussian_mu,
    judge,
    max_certifiable_epsilon,
    mu_lower_bound,
)
from reticent.audit.rates import roc
from reticent.audit.scorecard import Status
from reticent.errors import ConfigError
from reticent.guarantee import (
    CLIENT,
    Adversary,
    DifferentialPrivacy,
    Empirical,
    Guarantee,
    Pillar,
    Strength,
)
from reticent.random import seeded

RUNS = 200


def claim(epsilon: float, delta: float, strength: Strength | None = None) -> Guarantee:
    return Guarantee(
        id="dp",
        pillar=Pillar.TRAINING_DATA,
        adversary=Adversary(name="client", sees="scores", knows="records"),
        strength=strength
        or DifferentialPrivacy(
            epsilon=epsilon, delta=delta, neighboring_relation="add or remove", unit="record"
        ),
        mechanism="noise",
        assumptions=(),
        source="",
    )


@pytest.mark.parametrize(
    ("size", "expected"),
    [(30, 2.03), (100, 3.28), (300, 4.39), (1_000, 5.60), (3_000, 6.70), (10_000, 7.90)],
)
def test_the_power_of_a_perfect_attack(size: int, expected: float) -> None:
    assert max_certifiable_epsilon(size, size) == pytest.approx(expected, abs=0.006)


def test_a_measured_membership_attack() -> None:
    """TPR 7.45 % at FPR .1 % on 2,000 + 2,000 records gives 2.87 (point estimate 4.31)."""
    assert epsilon_lower_bound(149, 1851, 2, 1998) == pytest.approx(2.866, abs=1e-3)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 300), st.integers(1, 300), st.floats(0, 1), st.floats(0, 1), st.floats(0, 0.1)
)
def test_both_forms_by_hand(
    members: int, others: int, hit: float, alarm: float, delta: float
) -> None:
    tp, fp = round(hit * members), round(alarm * others)
    low = 0.0 if tp == 0 else stats.beta.ppf(0.025, tp, members - tp + 1)
    high = 1.0 if fp == others else stats.beta.ppf(0.975, fp + 1, others - fp)
    forms = [0.0]
    if low > delta:
        forms.append(math.log((low - delta) / high))
    if 1 - high > delta:
        forms.append(math.log((1 - high - delta) / (1 - low)))
    found = epsilon_lower_bound(tp, members - tp, fp, others - fp, delta=delta)
    assert found == pytest.approx(max(forms), abs=1e-9)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.3, 4.0))
def test_the_best_threshold_equals_an_exact_search(seed: int, shift: float) -> None:
    rng = seeded(seed, 1)
    truth = np.arange(300) < 150
    scores = np.round(rng.normal(shift * truth, 1.0), 2)
    curve = roc(scores, truth)
    hits, alarms = curve.true_positives, curve.false_positives
    bounds = epsilon_lower_bounds(hits, 150 - hits, alarms, 150 - alarms, delta=1e-4)
    chosen = Confusion.at(scores, truth, best_threshold(scores, truth, delta=1e-4))
    if bounds.max() > 0:
        assert chosen.epsilon_lower_bound(delta=1e-4) == pytest.approx(bounds.max())


def test_the_mirrored_form_is_the_stronger_where_few_members_are_missed() -> None:
    """No member missed, half the non-members accused: (1 - FPR) / (1 - TPR) shows it."""
    forward = math.log(1.0 / 0.5)
    assert epsilon_lower_bound(1000, 0, 500, 500) > 4 * forward


def test_many_counts_at_once_equal_one_by_one() -> None:
    hits = np.array([[0, 3, 50], [100, 99, 7]])
    alarms = np.array([[0, 3, 50], [0, 1, 100]])
    made = epsilon_lower_bounds(hits, 100 - hits, alarms, 100 - alarms, delta=1e-3)
    for index in np.ndindex(hits.shape):
        tp, fp = int(hits[index]), int(alarms[index])
        one = epsilon_lower_bound(tp, 100 - tp, fp, 100 - fp, delta=1e-3)
        assert made[index] == pytest.approx(one)


def test_delta_of_the_gaussian_mechanism_is_the_integral() -> None:
    """The hockey-stick divergence of N(mu, 1) from N(0, 1), by quadrature."""
    for mu, epsilon in [(0.5, 0.3), (1.0, 2.0), (2.5, 1.0)]:

        def excess(x: float, mu: float = mu, epsilon: float = epsilon) -> float:
            gap = stats.norm.pdf(x, mu) - math.exp(epsilon) * stats.norm.pdf(x)
            return max(0.0, gap)

        start = epsilon / mu + mu / 2
        area, _ = integrate.quad(excess, start, start + 15)
        assert gaussian_delta(mu, epsilon) == pytest.approx(area, rel=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.floats(0.05, 30), st.floats(-12, -2))
def test_epsilon_and_mu_invert_each_other(mu: float, exponent: float) -> None:
    delta = 10.0**exponent
    epsilon = gaussian_epsilon(mu, delta)
    if epsilon > 0:
        assert gaussian_mu(epsilon, delta) == pytest.approx(mu, rel=1e-5)


def test_the_analytic_mechanism_needs_less_noise_than_the_classic_formula() -> None:
    """Balle & Wang 2018, figure 1: sqrt(2 ln(1.25 / delta)) / epsilon overstates the noise."""
    for epsilon in (0.1, 0.5, 0.99):
        classic = math.sqrt(2 * math.log(1.25e5)) / epsilon
        assert 0.5 * classic < 1 / gaussian_mu(epsilon, 1e-5) < classic


def test_the_region_is_where_the_lower_bound_starts() -> None:
    """At exact rates (a huge sample) on the region's edge the bound approaches the claim."""
    size = 10**9
    for fpr in (1e-4, 0.01, 0.3, 0.8):
        tpr = float(dp_region(fpr, epsilon=1.5, delta=1e-3))
        tp, fp = round(tpr * size), round(fpr * size)
        found = epsilon_lower_bound(tp, size - tp, fp, size - fp, delta=1e-3)
        assert 1.45 < found <= 1.5
    assert dp_region(0.0, epsilon=2.0, delta=0.01) == pytest.approx(0.01)
    assert dp_region(1.0, epsilon=900.0) == 1.0


def noisy(
    noise: str, scale: float, runs: int, size: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Outputs of a mechanism of sensitivity 1 for both neighbours, (runs, size) each."""
    rng = seeded(seed, 1)
    draw = rng.normal if noise == "gaussian" else rng.laplace
    return 1.0 + draw(0, scale, (runs, size)), draw(0, scale, (runs, size))


def violations(noise: str, scale: float, epsilon: float, delta: float, size: int = 2000) -> float:
    """How many of 200 audits flag it; each threshold is chosen on another run's outputs."""
    with_record, without = noisy(noise, scale, RUNS + 1, size, seed=11)
    truth = np.arange(2 * size) < size
    flagged = 0
    for run in range(RUNS):
        other = np.concatenate([with_record[run + 1], without[run + 1]])
        threshold = best_threshold(other, truth, delta=delta)
        own = np.concatenate([with_record[run], without[run]])
        found = judge(claim(epsilon, delta), Confusion.at(own, truth, threshold))
        flagged += found.status is Status.VIOLATED
    return flagged / RUNS


@pytest.mark.parametrize("epsilon", [0.5, 2.0])
def test_a_gaussian_mechanism_is_rarely_flagged_and_a_tenth_of_its_noise_always(
    epsilon: float,
) -> None:
    scale = 1 / gaussian_mu(epsilon, 1e-5)
    assert violations("gaussian", scale, epsilon, 1e-5) <= 0.05
    assert violations("gaussian", scale / 10, epsilon, 1e-5) >= 0.95


@pytest.mark.parametrize("epsilon", [0.5, 2.0])
def test_a_laplace_mechanism_is_rarely_flagged_and_a_tenth_of_its_noise_always(
    epsilon: float,
) -> None:
    assert violations("laplace", 1 / epsilon, epsilon, 0.0) <= 0.05
    assert violations("laplace", 0.1 / epsilon, epsilon, 0.0) >= 0.95


def test_a_laplace_mechanism_that_saturates_its_claim_is_flagged_within_the_error() -> None:
    """Laplace noise meets e^epsilon exactly, so the flags of 20,000 audits test the level."""
    size, epsilon = 500, 1.0
    rng = seeded(12, 1)
    hits = rng.binomial(size, 0.5, 20_000)
    alarms = rng.binomial(size, 0.5 * math.exp(-epsilon), 20_000)
    bounds = epsilon_lower_bounds(hits, size - hits, alarms, size - alarms)
    assert 0.0 < (bounds > epsilon).mean() <= 0.05


def test_a_threshold_chosen_on_the_audited_scores_breaks_the_level() -> None:
    """Why `best_threshold` wants other records: no leak, yet far more than 5 % show one."""
    truth = np.arange(100) < 50
    rng = seeded(13, 1)
    own, other = 0, 0
    for _ in range(400):
        scores, second = rng.normal(size=100), rng.normal(size=100)
        for source in ("own", "other"):
            chosen = best_threshold(scores if source == "own" else second, truth, confidence=0.8)
            bound = Confusion.at(scores, truth, chosen).epsilon_lower_bound(
                delta=0.0, confidence=0.8
            )
            own += source == "own" and bound > 0
            other += source == "other" and bound > 0
    assert other / 400 <= 0.2 < own / 400


def test_gaussian_bound_recovers_mu_and_beats_the_distribution_free_one() -> None:
    """Half of each side beyond the threshold mu: the Gaussian reading of the same counts."""
    size, mu = 100_000, 2.0
    tp, fp = round(size * 0.5), round(size * stats.norm.sf(mu))
    low = mu_lower_bound(tp, size - tp, fp, size - fp)
    assert 1.97 < low < mu
    free = epsilon_lower_bound(tp, size - tp, fp, size - fp, delta=1e-5)
    assert free < gaussian_epsilon(low, 1e-5) < gaussian_epsilon(mu, 1e-5)


def test_verdicts() -> None:
    perfect = Confusion(tp=1000, fn=0, fp=0, tn=1000)
    blind = Confusion(tp=500, fn=500, fp=500, tn=500)
    assert judge(claim(2.0, 1e-5), perfect).status is Status.VIOLATED
    assert judge(claim(2.0, 1e-5), perfect).contradicts == "dp"
    assert judge(claim(2.0, 1e-5), blind).status is Status.CONSISTENT
    assert judge(claim(2.0, 1e-5), blind, control=perfect).status is Status.CONSISTENT
    weak = judge(claim(2.0, 1e-5), blind, control=blind)
    assert weak.status is Status.INCONCLUSIVE
    assert weak.power == 0.0
    few = Confusion(tp=15, fn=15, fp=15, tn=15)
    assert judge(claim(8.0, 1e-5), blind).status is Status.INCONCLUSIVE
    assert "perfect attack" in judge(claim(8.0, 1e-5), few).reason


def test_a_verdict_reaches_the_finding_as_the_scorecard_reads_it() -> None:
    found = judge(claim(2.0, 1e-5), Confusion(tp=990, fn=10, fp=5, tn=995))
    finding = epsilon_finding(
        found.epsilon,
        attack="membership",
        target="records",
        adversary=CLIENT.name,
        n=2000,
        perfect=found.perfect,
        judgement=found,
    )
    assert finding.contradicts == "dp"
    assert finding.details["tests"] == "dp"
    assert finding.details["max_epsilon"] == found.power
    assert found.power == pytest.approx(5.6006, abs=1e-3)
    assert finding.against((claim(2.0, 1e-5),)).contradicts == "dp"
    json.dumps(finding.to_json(), allow_nan=False)


def test_unusable_claims_and_counts_are_refused() -> None:
    counts = Confusion(tp=1, fn=1, fp=1, tn=1)
    with pytest.raises(ConfigError, match="differential privacy"):
        judge(claim(1.0, 0.0, strength=Empirical()), counts)
    with pytest.raises(ConfigError, match=r"delta=1\.5"):
        epsilon_lower_bound(1, 1, 1, 1, delta=1.5)
    with pytest.raises(ConfigError, match="members and non-members"):
        Confusion(tp=0, fn=0, fp=1, tn=1)
