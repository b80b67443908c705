"""The frontier: what dominates what, and what may not count as a merit."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reticent.audit.frontier import OBJECTIVES, Point, pareto
from reticent.errors import ConfigError


def point(method: str = "code", **changes: Any) -> Point:
    values: dict[str, Any] = {
        "utility": 0.9,
        "excess": 0.05,
        "client_flops_share": 0.3,
        "few_shot": {1: 0.6, 5: 0.7},
    }
    return Point(method=method, **(values | changes))


@pytest.mark.parametrize(
    "better",
    [
        {"utility": 0.91},
        {"excess": 0.04},
        {"client_flops_share": 0.29},
        {"few_shot": {1: 0.59, 5: 0.99}},
    ],
)
def test_better_in_one_objective_dominates(better: dict[str, Any]) -> None:
    assert point(**better).dominates(point())
    assert not point().dominates(point(**better))


def test_equal_points_do_not_dominate_and_both_stay() -> None:
    twins = (point("a"), point("b"))
    assert not twins[0].dominates(twins[1])
    assert pareto(twins) == twins


def test_a_trade_keeps_both() -> None:
    assert len(pareto((point("a"), point("b", utility=0.95, excess=0.06)))) == 2


def test_an_attack_below_the_floor_is_no_merit() -> None:
    """An attacker worse than the label would use the label: -4 points is not better than 0."""
    unlucky, exact = point("vib", excess=-0.04), point("code", excess=0.0)
    assert not unlucky.dominates(exact)
    assert not exact.dominates(unlucky)


def test_leaving_out_few_shot_decoding_is_no_merit() -> None:
    assert point().dominates(point("silent", few_shot={}))


def test_few_shot_compares_the_fewest_examples() -> None:
    assert point(few_shot={1: 0.5, 5: 0.9}).losses(("few_shot",)) == (0.5,)


def test_fewer_objectives_ask_a_narrower_question() -> None:
    plain = point("plain", excess=0.7, client_flops_share=0.0, few_shot={})
    code = point("code", excess=0.0)
    assert plain in pareto((plain, code))
    assert pareto((plain, code), ("utility", "excess")) == (code,)


POINTS = st.lists(
    st.builds(
        point,
        utility=st.integers(0, 4).map(float),
        excess=st.integers(-1, 3).map(float),
        client_flops_share=st.integers(0, 3).map(float),
        few_shot=st.one_of(st.just({}), st.integers(0, 3).map(lambda v: {1: float(v)})),
    ),
    min_size=1,
    max_size=12,
)


@given(POINTS)
def test_pareto_is_what_brute_force_finds(points: list[Point]) -> None:
    kept = pareto(points)
    assert kept
    for one in points:
        losses = one.losses()
        beaten = any(
            all(a <= b for a, b in zip(o.losses(), losses, strict=True)) and o.losses() != losses
            for o in points
        )
        assert (one in kept) is not beaten


@given(POINTS)
def test_every_point_left_out_is_beaten_by_one_that_stays(points: list[Point]) -> None:
    kept = pareto(points)
    for one in points:
        assert one in kept or any(other.dominates(one) for other in kept)


def test_json_restores_the_point() -> None:
    made = point(
        alone=0.8, utility_ci=(0.88, 0.92), target="person", requests=32, chosen=True,
        guaranteed=True, contradicted=True, parameters={"lam": 5.0},
    )  # fmt: skip
    assert Point.from_json(json.loads(json.dumps(made.to_json()))) == made


@pytest.mark.parametrize("field", ["utility", "excess", "client_flops_share"])
def test_what_was_not_measured_is_refused(field: str) -> None:
    with pytest.raises(ConfigError, match=f"finite {field} for method 'code'"):
        point(**{field: math.nan})


def test_a_broken_record_names_the_field() -> None:
    record = point().to_json() | {"excess": "little"}
    with pytest.raises(ConfigError, match=r"excess.*got 'little'"):
        Point.from_json(record)


def test_no_objective_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least one objective"):
        pareto((point(),), ())


def test_all_objectives_are_used_by_default() -> None:
    assert point().losses() == point().losses(OBJECTIVES)
    assert len(point().losses()) == 5


def test_a_faster_twin_dominates_and_an_untimed_one_does_not() -> None:
    slow, fast = point(latency_ms=90.0), point(latency_ms=10.0)
    assert fast.dominates(slow)
    assert not point().dominates(slow)
    assert Point.from_json(slow.to_json()) == slow
    with pytest.raises(ConfigError, match="latency_ms"):
        point(latency_ms=float("nan"))
