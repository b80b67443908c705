"""Many findings, one claim: false alarms stay rare, true leaks and broken zeros are still found."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from reticent.attacks.finding import Finding
from reticent.audit.family import broken_by, could_contradict, family_size, judged
from reticent.guarantee import (
    CLIENT,
    SERVER,
    DifferentialPrivacy,
    Guarantee,
    InformationBound,
    Pillar,
)

ALLOWED = 0.05


def claim(name: str = "noise", allowed: float = ALLOWED, strength: Any = None) -> Guarantee:
    bound = InformationBound(nats=allowed, total_variation=allowed, scope="total")
    return Guarantee(
        id=name,
        pillar=Pillar.INPUT,
        adversary=SERVER,
        strength=strength or bound,
        mechanism="a mechanism",
        assumptions=(),
        source="a theorem",
    )


def finding(excess: float, half: float = 0.0196, **changes: Any) -> Finding:
    values: dict[str, Any] = {
        "attack": "an attack",
        "pillar": Pillar.INPUT,
        "adversary": SERVER.name,
        "target": "person",
        "metric": "balanced accuracy",
        "value": 0.2 + excess,
        "ci": (0.2, 0.3),
        "floor": 0.2,
        "excess": excess,
        "excess_ci": (excess - half, excess + half),
        "n": 1000,
        "ceiling": 0.9,
    }
    return Finding(**(values | changes))


def holm(chances: list[float], error: float) -> set[int]:
    """Step down by hand: the smallest left is held against error / (how many are left)."""
    left, found = list(range(len(chances))), set()
    while left:
        best = min(left, key=lambda index: chances[index])
        if chances[best] > error / len(left):
            break
        found.add(best)
        left.remove(best)
    return found


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-0.05, 0.2), min_size=1, max_size=12, unique=True))
def test_the_family_is_judged_by_holms_procedure(excesses: list[float]) -> None:
    chances = [float(stats.norm.sf((excess - ALLOWED) / 0.01)) for excess in excesses]
    half = 0.01 * float(stats.norm.ppf(0.975))
    found = broken_by(claim(), [finding(excess, half) for excess in excesses])
    assert set(found) == holm(chances, 0.025)


def test_a_lone_finding_is_judged_as_its_interval_says() -> None:
    for excess in (0.0695, 0.0697):
        for units in (None, 5):
            details = {} if units is None else {"independent units": units}
            made = finding(excess, details=details)
            assert bool(broken_by(claim(), [made])) == (made.excess_ci[0] > ALLOWED)


def test_a_claim_that_holds_is_rarely_contradicted_by_forty_attacks() -> None:
    """2,000 families at the very bound: 0.025 of them at most, where single intervals give 0.64."""
    rng = np.random.default_rng(5)
    draws = ALLOWED + 0.01 * rng.standard_normal((2000, 40))
    alarms = sum(bool(broken_by(claim(), [finding(e) for e in row])) for row in draws[:400])
    assert alarms <= 20
    single = (draws - 0.0196 > ALLOWED).any(axis=1).mean()
    assert single > 0.5


def test_a_true_leak_among_forty_is_found_and_named() -> None:
    crowd = [finding(0.0) for _ in range(39)] + [finding(0.12)]
    made = judged(crowd, [claim()])
    assert [index for index, item in enumerate(made) if item.contradicts] == [39]


def test_few_independent_units_are_worth_less() -> None:
    """The same interval, of 5 people or of many: t quantiles grow faster than normal ones."""
    near = finding(0.085)
    few = finding(0.085, details={"independent units": 5})
    others = [finding(0.0) for _ in range(9)]
    assert broken_by(claim(), [near, *others]) == (0,)
    assert broken_by(claim(), [few, *others]) == ()


def test_claims_of_zero_are_not_corrected() -> None:
    zero = claim("zero", 0.0)
    crowd = [finding(0.0, 0.0) for _ in range(99)]
    assert judged(crowd, [zero]) == tuple(crowd)
    assert broken_by(zero, [*crowd, finding(0.02)]) == (99,)
    assert family_size(zero, crowd) == 1


def test_an_infinite_interval_contradicts_nothing() -> None:
    unknown = finding(0.9, excess_ci=(float("-inf"), float("inf")))
    assert broken_by(claim(), [unknown]) == ()


def test_only_findings_of_the_same_adversary_and_scale_belong_to_the_family() -> None:
    others = [
        finding(0.5, adversary=CLIENT.name),
        finding(0.5, metric="explained variance"),
        finding(0.5, pillar=Pillar.OUTPUT),
    ]
    assert broken_by(claim(), others) == ()
    assert family_size(claim(), [*others, finding(0.0), finding(0.0)]) == 2


def test_marks_are_computed_anew_unless_an_audit_tested_the_claim_itself() -> None:
    private = DifferentialPrivacy(epsilon=1.0, delta=0.0, neighboring_relation="add", unit="record")
    claims = [claim(), claim("dp", strength=private)]
    stale = finding(0.0, contradicts="noise")
    tested = finding(0.0, contradicts="noise", details={"tests": "noise"})
    epsilon = finding(0.0, contradicts="dp")
    made = judged([stale, tested, epsilon], claims)
    assert [item.contradicts for item in made] == [None, "noise", "dp"]


def test_a_second_claim_is_named_where_the_first_holds() -> None:
    made = judged([finding(0.08)], [claim("loose", 0.5), claim("tight", 0.01)])
    assert made[0].contradicts == "tight"


@pytest.mark.parametrize(("family", "power"), [(1, True), (500, False)])
def test_power_shrinks_with_the_family(family: int, power: bool) -> None:
    """At the ceiling 0.28 the excess 0.08 lies 1.5 half-widths above what is allowed."""
    weak = finding(0.0, 0.02, ceiling=0.28)
    assert could_contradict(weak, claim(), family=family) is power
