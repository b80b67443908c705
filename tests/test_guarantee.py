"""What an information bound promises after m requests, against total variation computed anew."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from reticent.errors import ConfigError
from reticent.guarantee import (
    CLIENT,
    SERVER,
    Attested,
    Computational,
    DifferentialPrivacy,
    Empirical,
    Guarantee,
    InformationBound,
    Pillar,
    Strength,
    Syntactic,
)
from reticent.random import seeded


def gaussian(sigmas: float) -> InformationBound:
    """The bound of a Gaussian channel whose features lie within `sigmas` of their prototype."""
    return InformationBound(
        nats=sigmas**2 / 2,
        total_variation=math.erf(sigmas / (2 * math.sqrt(2))),
        worst_case=True,
        sigmas=sigmas,
    )


def distance_by_quadrature(shift: float) -> float:
    """Total variation between N(0, 1) and N(shift, 1), by numerical integration."""
    gap = lambda z: abs(stats.norm.pdf(z) - stats.norm.pdf(z - shift)) / 2  # noqa: E731
    found: float = integrate.quad(gap, -12, 12 + shift, points=[shift / 2], limit=200)[0]
    return found


@pytest.mark.parametrize("requests", [1, 2, 8, 50])
@pytest.mark.parametrize("sigmas", [0.01, 0.09, 0.5, 2.0])
def test_a_worst_case_gaussian_composes_to_the_exact_total_variation(
    sigmas: float, requests: int
) -> None:
    exact = distance_by_quadrature(math.sqrt(requests) * sigmas)
    bound = gaussian(sigmas)
    assert bound.total_variation_after(requests) == pytest.approx(exact, abs=1e-7)
    # The bounds that hold without knowing the channel is Gaussian are never below the truth.
    assert requests * bound.total_variation >= exact - 1e-9
    assert math.sqrt(bound.nats_after(requests) / 2) >= exact - 1e-9


@pytest.mark.parametrize("requests", [2, 5])
def test_the_product_of_m_channels_is_bounded_by_monte_carlo_too(requests: int) -> None:
    """m different inputs, each as far from its prototype as allowed, in any direction."""
    rng, sigmas, n = seeded(5, requests), 0.4, 200_000
    away = rng.normal(size=(requests, 3))
    away *= sigmas / np.linalg.norm(away, axis=1, keepdims=True)
    z = away + rng.normal(size=(n, requests, 3))
    log_ratio = (0.5 * (z - away) ** 2 - 0.5 * z**2).sum(axis=(1, 2))
    advantage = np.maximum(0.0, 1 - np.exp(log_ratio))
    measured, error = advantage.mean(), advantage.std() / math.sqrt(n)
    bound = gaussian(sigmas).total_variation_after(requests)
    assert abs(measured - bound) < 5 * error
    assert measured > gaussian(sigmas).total_variation_after(1) + 5 * error


bounds = st.builds(
    InformationBound,
    nats=st.floats(0, 50),
    total_variation=st.floats(0, 1),
    scope=st.sampled_from(["per query", "total"]),
    worst_case=st.booleans(),
    sigmas=st.none() | st.floats(0, 10),
)


@given(bounds, st.integers(1, 10_000), st.integers(1, 10_000))
def test_a_bound_is_a_probability_and_never_falls_with_more_requests(
    bound: InformationBound, first: int, more: int
) -> None:
    assert 0 <= bound.total_variation_after(first) <= 1
    assert bound.total_variation_after(first) <= bound.total_variation_after(first + more) + 1e-12
    assert bound.nats_after(first) <= bound.nats_after(first + more)


def test_a_total_bound_does_not_grow() -> None:
    exact = InformationBound(nats=0.0, total_variation=0.0, scope="total", worst_case=True)
    assert exact.total_variation_after(10**6) == 0
    assert exact.nats_after(10**6) == 0


def test_the_mean_nats_of_an_average_case_bound_never_tighten_its_confidence_limit() -> None:
    """One far record in 10,000 leaves the mean of nats near 0; the limit on tau knows better."""
    average = InformationBound(nats=1e-6, total_variation=0.05)
    assert average.total_variation_after(1) == 0.05
    assert average.total_variation_after(4) == pytest.approx(0.2)
    worst = InformationBound(nats=1e-6, total_variation=0.05, worst_case=True)
    assert worst.total_variation_after(1) == pytest.approx(math.sqrt(5e-7))


@pytest.mark.parametrize(
    "wrong",
    [
        {"nats": -1e-9, "total_variation": 0.0},
        {"nats": math.nan, "total_variation": 0.0},
        {"nats": 0.0, "total_variation": 1.01},
        {"nats": 0.0, "total_variation": -0.1},
        {"nats": 0.0, "total_variation": math.nan},
        {"nats": 0.0, "total_variation": 0.0, "scope": "forever"},
        {"nats": 0.0, "total_variation": 0.0, "sigmas": -1.0},
        {"nats": 0.0, "total_variation": 0.0, "sigmas": math.inf},
    ],
)
def test_bounds_that_bound_nothing_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        InformationBound(**wrong)


@pytest.mark.parametrize("requests", [0, -1])
def test_a_bound_after_no_request_is_refused(requests: int) -> None:
    bound = InformationBound(nats=math.inf, total_variation=1.0)
    with pytest.raises(ConfigError, match="requests"):
        bound.total_variation_after(requests)
    with pytest.raises(ConfigError, match="requests"):
        bound.nats_after(requests)


def claim(strength: Strength) -> Guarantee:
    return Guarantee(
        id="input/server/x",
        pillar=Pillar.INPUT,
        adversary=SERVER,
        strength=strength,
        mechanism="x",
        assumptions=("one", "two"),
        source="here",
    )


def test_allowed_excess_is_the_bound_for_those_strengths_that_have_one() -> None:
    assert claim(gaussian(0.5)).allowed_excess(8) == gaussian(0.5).total_variation_after(8)
    sealed = claim(Computational(bits=20, assumption="RLWE"))
    assert sealed.allowed_excess(8) == 8 * 2.0**-20
    assert claim(Computational(bits=1, assumption="none")).allowed_excess(8) == 1.0
    private = DifferentialPrivacy(epsilon=1, delta=0, neighboring_relation="add", unit="user")
    for silent in (Empirical(), Attested(measurement="ab"), Syntactic(k=5), private):
        assert claim(silent).allowed_excess() is None


finite = st.floats(0, 1e6, allow_nan=False)
strengths = st.one_of(
    bounds,
    st.just(Empirical()),
    st.builds(Attested, measurement=st.text()),
    st.builds(Computational, bits=st.integers(0, 512), assumption=st.text()),
    st.builds(Syntactic, k=st.integers(1, 99), l=st.integers(1, 9), t=st.floats(0, 1)),
    st.builds(
        DifferentialPrivacy,
        epsilon=finite,
        delta=finite,
        neighboring_relation=st.text(),
        unit=st.text(),
    ),
)


@given(
    st.builds(
        Guarantee,
        id=st.text(),
        pillar=st.sampled_from(Pillar),
        adversary=st.sampled_from([SERVER, CLIENT]),
        strength=strengths,
        mechanism=st.text(),
        assumptions=st.lists(st.text(), max_size=3).map(tuple),
        source=st.text(),
    )
)
def test_json_restores_every_guarantee(guarantee: Guarantee) -> None:
    text = json.dumps(guarantee.to_json(), allow_nan=False)
    assert Guarantee.from_json(json.loads(text)) == guarantee


FIELDS = ("id", "pillar", "adversary", "strength", "mechanism", "assumptions", "source")


@pytest.mark.parametrize("field", FIELDS)
def test_a_missing_field_is_a_configuration_error(field: str) -> None:
    record = claim(gaussian(0.5)).to_json()
    del record[field]
    with pytest.raises(ConfigError):
        Guarantee.from_json(record)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("pillar", "everything"),
        ("adversary", {"name": "server"}),
        ("adversary", 3),
        ("strength", {"kind": "unbreakable"}),
        ("strength", {"kind": "information bound", "nats": 0.0}),
        ("strength", {"kind": "information bound", "nats": "few", "total_variation": 0.0}),
        ("strength", {"kind": "empirical", "epsilon": 1.0}),
        ("strength", []),
        ("assumptions", None),
    ],
)
def test_a_malformed_field_is_a_configuration_error(field: str, value: object) -> None:
    with pytest.raises(ConfigError):
        Guarantee.from_json(claim(gaussian(0.5)).to_json() | {field: value})
