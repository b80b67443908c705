"""No attacker, however good, beats a certificate: Bayes-optimal attacks computed exactly.

Populations are small and discrete, so the best attacker there can be is an integral of the largest
posterior, done on a grid. It is also shown the label, which makes it stronger than a server that
sees only the noisy features.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from reticent.guarantee import InformationBound
from reticent.inference.split.certificate import (
    bernstein_limit,
    betting_limit,
    certify,
    radius_for,
)
from reticent.inference.split.release import Noisy, nearest

SIGMA = 1.0
STEP = {1: 0.02, 2: 0.15}
# What the grids lose: excesses are compared with bounds up to this.
SLACK = 2e-3


@dataclass(frozen=True, kw_only=True)
class Population:
    """Records with weights, a position each, an attribute, and the prototypes' labels."""

    features: NDArray[np.float32]
    attribute: NDArray[np.int64]
    weights: NDArray[np.float64]
    labels: NDArray[np.int64]

    def joint(self) -> NDArray[np.float64]:
        """p(z, s, label) times the cell size on a grid, shape (cells, attributes, labels)."""
        size = self.features.shape[1]
        step = STEP[size]
        axes = [
            np.arange(low - 6 * SIGMA, high + 6 * SIGMA, step)
            for low, high in zip(self.features.min(axis=0), self.features.max(axis=0), strict=True)
        ]
        grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, size)
        table = np.zeros((len(grid), self.attribute.max() + 1, self.labels.max() + 1))
        for place, s, weight, label in zip(
            self.features, self.attribute, self.weights, self.labels, strict=True
        ):
            squared = ((grid - place) ** 2).sum(axis=1) / (2 * SIGMA**2)
            density = np.exp(-squared) / (2 * math.pi * SIGMA**2) ** (size / 2)
            table[:, s, label] += weight * density * step**size
        return table

    def excess(self) -> float:
        """The Bayes-optimal attacker's accuracy from (z, label) minus the one from the label."""
        table = self.joint()
        from_label = table.sum(axis=0).max(axis=0).sum()
        return float(table.max(axis=1).sum() - from_label)

    def information(self) -> float:
        """I(S; Z | label) in nats."""
        table = self.joint()
        total = table.sum(axis=0)
        frequent = np.maximum(total.sum(axis=0), 1e-300)
        expected = table.sum(axis=1, keepdims=True) * (total / frequent)
        with np.errstate(divide="ignore", invalid="ignore"):
            terms = np.where(table > 0, table * np.log(table / expected), 0.0)
        return float(terms.sum())

    def balanced(self) -> Population:
        """The same people, weighted so that every value of the attribute is as frequent."""
        share = np.bincount(self.attribute, self.weights)
        weights = self.weights / share[self.attribute] / (share > 0).sum()
        return Population(
            features=self.features, attribute=self.attribute, weights=weights, labels=self.labels
        )


def draw(rng: np.random.Generator, radius: float | None = None) -> tuple[Population, Noisy]:
    """A random population around random prototypes, and its release."""
    size, labels = int(rng.integers(1, 3)), int(rng.integers(2, 4))
    prototypes = rng.normal(scale=rng.uniform(0.5, 5), size=(labels, size)).astype(np.float32)
    release = Noisy(
        scale=np.full(1, SIGMA, np.float32), size=size, prototypes=prototypes, radius=radius
    )
    count = int(rng.integers(4, 12))
    spread = rng.uniform(0.05, 1.5)
    features = prototypes[rng.integers(labels, size=count)]
    features = (features + rng.normal(scale=spread, size=features.shape)).astype(np.float32)
    attribute = rng.integers(0, rng.integers(2, 4), size=count)
    attribute[:2] = (0, 1)
    kept = release.contract(features)
    population = Population(
        features=kept,
        attribute=attribute,
        weights=np.full(count, 1 / count),
        labels=nearest(kept, prototypes),
    )
    return population, release


def test_the_certificate_is_never_violated_in_200_randomised_trials() -> None:
    rng = np.random.default_rng(20)
    used = []
    for _ in range(200):
        population, release = draw(rng)
        certificate = certify(population.features, release)
        excess = population.excess()
        assert excess <= certificate.tau + SLACK
        assert excess <= certificate.tau_limit + SLACK
        assert population.information() <= certificate.nats + SLACK
        used.append(excess / certificate.tau)
    # The test has teeth: a certificate of a half, or even of two thirds, would be violated.
    assert max(used) > 2 / 3


def test_the_certificate_is_tight_for_two_people_either_side_of_a_prototype() -> None:
    """For small distances the best attacker's excess is the certificate itself."""
    release = Noisy(
        scale=np.ones(1, np.float32), size=1, prototypes=np.array([[0.0], [50.0]], np.float32)
    )
    features = np.array([[-0.2], [0.2]], np.float32)
    population = Population(
        features=features,
        attribute=np.array([0, 1]),
        weights=np.full(2, 0.5),
        labels=np.zeros(2, np.int64),
    )
    certificate = certify(features, release)
    assert population.excess() == pytest.approx(certificate.tau, rel=0.02)
    assert population.excess() <= certificate.tau


def test_balanced_accuracy_never_exceeds_its_limit_and_needs_one_of_its_own() -> None:
    rng = np.random.default_rng(21)
    beyond_plain = 0
    for _ in range(100):
        population, release = draw(rng)
        values = {"s": population.attribute}
        certificate = certify(population.features, release, attributes=values)
        excess = population.balanced().excess()
        assert excess <= certificate.tau_limit + SLACK
        by_value = [
            certify(population.features[population.attribute == s], release).tau
            for s in np.unique(population.attribute)
        ]
        assert excess <= np.mean(by_value) + SLACK
        beyond_plain += excess > certificate.tau
    assert beyond_plain < 100

    # A rare value whose members lie far out: plain tau would be a false promise.
    features = np.concatenate([np.zeros((99, 1)), np.full((1, 1), 3.0)]).astype(np.float32)
    prototypes = np.array([[0.0], [50.0]], np.float32)
    release = Noisy(scale=np.ones(1, np.float32), size=1, prototypes=prototypes)
    rare = Population(
        features=features,
        attribute=np.array([0] * 99 + [1]),
        weights=np.full(100, 0.01),
        labels=np.zeros(100, np.int64),
    )
    certificate = certify(features, release, attributes={"s": rare.attribute})
    assert rare.balanced().excess() > 10 * certificate.tau
    assert rare.balanced().excess() <= certificate.tau_limit


def test_no_single_person_of_any_population_beats_the_worst_case_bound() -> None:
    rng = np.random.default_rng(22)
    used = []
    for _ in range(100):
        radius = float(rng.uniform(0.05, 1.5))
        population, release = draw(rng, radius)
        certificate = certify(population.features, release)
        bound = math.erf(radius / SIGMA / (2 * math.sqrt(2)))
        assert certificate.worst_tau == pytest.approx(bound)
        assert population.excess() <= bound + SLACK
        assert population.balanced().excess() <= bound + SLACK
        assert population.information() <= certificate.worst_nats + SLACK
        assert certificate.tau_limit <= certificate.worst_tau
        used.append(population.excess() / bound)
    assert max(used) > 0.5


@pytest.mark.parametrize("bounded", [False, True])
def test_two_pooled_requests_stay_within_the_composed_bound(bounded: bool) -> None:
    """Users with two different inputs each: two 1-D channels are one 2-D channel on pairs."""
    rng = np.random.default_rng(23)
    for _ in range(100):
        radius = float(rng.uniform(0.1, 1.0)) if bounded else None
        prototypes = np.array([[-4.0], [4.0]], np.float32)
        release = Noisy(scale=np.ones(1, np.float32), size=1, prototypes=prototypes, radius=radius)
        users = int(rng.integers(3, 8))
        spread = rng.uniform(0.1, 1.0)
        first = rng.choice([-4.0, 4.0], size=(users, 2)) + rng.normal(scale=spread, size=(users, 2))
        inputs = release.contract(first.reshape(-1, 1).astype(np.float32))
        labels = nearest(inputs, prototypes).reshape(users, 2)
        attribute = rng.integers(0, 2, size=users)
        attribute[:2] = (0, 1)
        pairs = Population(
            features=inputs.reshape(users, 2),
            attribute=attribute,
            weights=np.full(users, 1 / users),
            labels=labels[:, 0] + 2 * labels[:, 1],
        )
        certificate = certify(inputs, release)
        bound = InformationBound(
            nats=certificate.worst_nats if bounded else certificate.nats,
            total_variation=certificate.worst_tau if bounded else certificate.tau,
            worst_case=bounded,
            sigmas=radius,
        )
        allowed = bound.total_variation_after(2)
        assert pairs.excess() <= allowed + SLACK
        assert pairs.information() <= bound.nats_after(2) + SLACK


def test_pooling_pays_so_that_the_bound_for_one_request_would_be_a_false_promise() -> None:
    radius = 0.3
    bound = InformationBound(
        nats=radius**2 / 2,
        total_variation=math.erf(radius / (2 * math.sqrt(2))),
        worst_case=True,
        sigmas=radius,
    )
    pairs = Population(
        features=np.array([[-radius, -radius], [radius, radius]], np.float32),
        attribute=np.array([0, 1]),
        weights=np.full(2, 0.5),
        labels=np.zeros(2, np.int64),
    )
    excess = pairs.excess()
    assert 1.3 * bound.total_variation < excess
    assert excess == pytest.approx(bound.total_variation_after(2), rel=0.05)
    assert excess <= bound.total_variation_after(2)


@given(
    st.floats(1e-4, 0.99),
    st.floats(0.01, 100),
    st.integers(1, 1000),
)
def test_the_radius_for_a_bound_gives_that_bound(tau: float, sigma: float, requests: int) -> None:
    radius = radius_for(tau, sigma=sigma, requests=requests)
    sigmas = radius / sigma
    bound = InformationBound(
        nats=sigmas**2 / 2,
        total_variation=math.erf(sigmas / (2 * math.sqrt(2))),
        worst_case=True,
        sigmas=sigmas,
    )
    assert bound.total_variation_after(requests) == pytest.approx(tau, rel=1e-9)
    shift = math.sqrt(requests) * sigmas
    assert 2 * stats.norm.cdf(shift / 2) - 1 == pytest.approx(tau, rel=1e-9)


@pytest.mark.parametrize("wrong", [{"tau": 0.0}, {"tau": 1.0}, {"sigma": 0.0}, {"requests": 0}])
def test_a_radius_for_the_impossible_is_refused(wrong: dict[str, float]) -> None:
    asked = {"tau": 0.1, "sigma": 1.0, "requests": 1} | wrong
    with pytest.raises(ValueError, match="Expected"):
        radius_for(asked["tau"], sigma=asked["sigma"], requests=int(asked["requests"]))


@pytest.mark.parametrize(
    ("law", "n"),
    [
        (stats.beta(0.3, 3), 40),
        (stats.beta(5, 1), 100),
        (stats.bernoulli(0.01), 50),
        (stats.bernoulli(0.5), 200),
        (stats.uniform(), 2),
    ],
)
def test_the_bernstein_limit_covers_the_mean_19_times_in_20_or_more(law: object, n: int) -> None:
    draws = law.rvs(size=(2_000, n), random_state=7).astype(float)  # type: ignore[attr-defined]
    covered = np.mean([bernstein_limit(row, failure=0.05) >= law.mean() for row in draws])  # type: ignore[attr-defined]
    assert covered >= 0.95


def test_a_normal_approximation_would_not_cover() -> None:
    """What makes the wider limit necessary: rare far records that a sample often misses."""
    draws = stats.bernoulli(0.01).rvs(size=(2_000, 50), random_state=7)
    normal = draws.mean(axis=1) + 1.645 * draws.std(axis=1, ddof=1) / math.sqrt(50)
    assert (normal >= 0.01).mean() < 0.5


def test_the_limit_closes_in_on_the_mean() -> None:
    draws = stats.beta(2, 8).rvs(size=50_000, random_state=1)
    assert draws.mean() < bernstein_limit(draws, failure=0.05) < draws.mean() + 0.005
    assert bernstein_limit(draws[:1], failure=0.05) == 1.0


def test_a_certificate_on_a_sample_covers_the_population() -> None:
    """tau_limit from 100 held-out records against tau of the whole population."""
    rng = np.random.default_rng(24)
    prototypes = np.array([[0.0], [50.0]], np.float32)
    release = Noisy(scale=np.ones(1, np.float32), size=1, prototypes=prototypes)
    population = rng.exponential(scale=0.3, size=(20_000, 1)).astype(np.float32)
    truth = certify(population, release).tau
    samples = (population[rng.integers(20_000, size=100)] for _ in range(500))
    covered = np.mean([certify(sample, release).tau_limit >= truth for sample in samples])
    assert covered >= 0.95


def people(rng: np.random.Generator, count: int, windows: int = 40) -> tuple[NDArray, NDArray]:  # type: ignore[type-arg]
    """Features (n, 1) of people who differ much, windows of one who differ little, and user ids."""
    scale = np.where(rng.random(count) < 0.3, 1.5, 0.1)
    features = scale[:, None] * (0.9 + 0.1 * rng.random((count, windows)))
    return features.reshape(-1, 1).astype(np.float32), np.repeat(np.arange(count), windows)


def test_one_persons_windows_are_one_observation() -> None:
    """With user ids the limit covers in 95 % of samples of 15 people; without them it fails."""
    rng = np.random.default_rng(11)
    prototypes = np.array([[0.0], [50.0]], np.float32)
    release = Noisy(scale=np.ones(1, np.float32), size=1, prototypes=prototypes)
    crowd, names = people(rng, 4_000)
    truth = certify(crowd, release, users=names).tau
    by_user, by_record = [], []
    for _ in range(300):
        sample, users = people(rng, 15)
        by_user.append(certify(sample, release, users=users).tau_limit >= truth)
        by_record.append(certify(sample, release).tau_limit >= truth)
    assert np.mean(by_user) >= 0.95
    assert np.mean(by_record) < 0.85


def test_identity_needs_no_limit_of_its_own_and_sex_does() -> None:
    rng = np.random.default_rng(12)
    prototypes = np.array([[0.0], [50.0]], np.float32)
    release = Noisy(scale=np.ones(1, np.float32), size=1, prototypes=prototypes)
    features, users = people(rng, 40)
    alone = certify(features, release, users=users)
    assert alone.units == 40
    assert alone.n == 1600
    named = certify(features, release, users=users, attributes={"person": users})
    assert named.tau_limit == alone.tau_limit < 1
    halved = certify(features, release, users=users, attributes={"sex": users % 2})
    assert halved.tau_limit > alone.tau_limit


@pytest.mark.parametrize("mean", [0.02, 0.1, 0.5])
@pytest.mark.parametrize("n", [5, 25, 200])
def test_the_betting_limit_covers_and_is_no_wider_than_bernsteins(mean: float, n: int) -> None:
    """500 samples of a beta law and of coin flips: at most 5 % of limits below the mean."""
    rng = np.random.default_rng(n)
    for draws in (
        rng.beta(2 * mean / (1 - mean), 2, size=(500, n)),
        (rng.random((500, n)) < mean).astype(float),
    ):
        limits = np.array([betting_limit(row, failure=0.05) for row in draws])
        assert (limits < mean).mean() <= 0.05 + 0.03
        wide = np.array([bernstein_limit(row, failure=0.05) for row in draws])
        assert limits.mean() <= wide.mean()


def test_the_betting_limit_by_hand() -> None:
    """Zeros, 20 of them: bets of 0.95 pay 1 + 0.95 m each, and the capital must reach 20."""
    limit = betting_limit(np.zeros(20), failure=0.05)
    bets = []
    before = 0.25
    seen = 0.0
    for t in range(1, 21):
        bets.append(min(0.95, math.sqrt(2 * math.log(20) / (20 * before))))
        seen += (0.5 / (t + 1)) ** 2
        before = (0.25 + seen) / (t + 1)
    assert np.prod([1 + bet * limit for bet in bets]) == pytest.approx(20, rel=1e-6)
    assert betting_limit(np.zeros(1), failure=0.05) == 1.0


def test_json_has_no_infinity() -> None:
    population, release = draw(np.random.default_rng(0))
    record = certify(population.features, release).to_json()
    assert record["worst_nats"] is None
    assert record["worst_tau"] == 1.0


def test_without_prototypes_or_with_other_noise_there_is_nothing_to_certify() -> None:
    scale = np.ones(1, np.float32)
    features = np.zeros((5, 1), np.float32)
    with pytest.raises(ValueError, match="none to certify"):
        certify(features, Noisy(scale=scale, size=1))
    laplace = Noisy(scale=scale, size=1, shape="laplace", prototypes=np.zeros((2, 1), np.float32))
    with pytest.raises(ValueError, match="none to certify"):
        certify(features, laplace)
