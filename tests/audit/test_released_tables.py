"""The audit of a release: a copy has risk 1, an independent table none, a part leaks its share."""

from __future__ import annotations

import json

import numpy as np
import pytest

from reticent.attacks.finding import Finding
from reticent.attacks.release.singling_out import multivariate
from reticent.attacks.release.table import Encoding
from reticent.audit.released_tables import (
    INFERENCE,
    LINKABILITY,
    MEMBERSHIP,
    SINGLING_OUT,
    audit_released_table,
)
from reticent.audit.risk import risk_beyond
from reticent.data.embedded import adult_columns
from reticent.errors import ConfigError, DataError

N = 1200


def people(n: int, seed: int) -> dict[str, np.ndarray]:
    """SYNTHETIC people with enough columns to be told apart."""
    rng = np.random.default_rng(seed)
    base = rng.normal(size=n)
    return {
        "age": rng.integers(18, 90, size=n),
        "weight": 70 + 12 * base + rng.normal(size=n),
        "height": 170 + 9 * base + 3 * rng.normal(size=n),
        "postcode": rng.integers(60, size=n).astype(str),
        "works": rng.integers(9, size=n).astype(str),
        "ill": np.where(rng.random(n) < 0.35, "yes", "no"),
    }


def tables(leaked: float) -> tuple[dict[str, np.ndarray], ...]:
    original, control, fresh = (people(N, seed) for seed in (0, 1, 2))
    kept = int(leaked * N)
    release = {
        name: np.concatenate([original[name][:kept], fresh[name][kept:]]) for name in original
    }
    return release, original, control


def audit(leaked: float, **more: object) -> dict[tuple[str, str], Finding]:
    given = {"attacks": 300, "secrets": ("ill",), **more}
    parts = (("age", "weight", "ill"), ("postcode", "works", "height"))
    found = audit_released_table(*tables(leaked), parts=parts, **given)  # type: ignore[arg-type]
    return {(one.attack, one.target.partition(" (")[2]): one for one in found} | {
        (one.attack, one.target): one for one in found
    }


def test_the_original_as_its_own_release_has_a_risk_of_one() -> None:
    found = audit(1.0)
    for key in (
        (SINGLING_OUT, "one column"),
        (SINGLING_OUT, "4 columns"),
        (SINGLING_OUT, "4 columns, equal values"),
        (LINKABILITY, "age, weight, ill | postcode, works, height"),
        (INFERENCE, "ill (nearest)"),
    ):
        one = found[key]
        assert one.details["risk"] > 0.97, key
        assert one.details["risk_ci"][0] > 0.94, key
        assert one.details["positive control"]["passed"], key
        assert one.details["negative control"]["passed"], key
    assert found[(MEMBERSHIP, "density ratio")].value > 0.99


def test_an_independent_table_of_the_same_population_has_no_risk() -> None:
    found = list({id(one): one for one in audit(0.0).values()}.values())
    assert len(found) == 7
    for one in found:
        # Seven intervals of 95 %: one may miss 0 by a little.
        assert one.excess_ci[0] <= 0.03, one
        assert one.details["negative control"]["passed"]
        assert one.ceiling is None or one.ceiling >= one.value
        assert Finding.from_json(json.loads(json.dumps(one.to_json()))) == one
    assert {one.attack for one in found} == {SINGLING_OUT, LINKABILITY, INFERENCE, MEMBERSHIP}


def test_predicates_alarm_on_independent_tables_as_seldom_as_their_intervals_say() -> None:
    """Many predicates look at the same few outliers; their interval must hold all the same."""
    alarms, gains = 0, []
    for trial in range(30):
        original, control, release = (people(600, 100 + 3 * trial + part) for part in range(3))
        encoding = Encoding.of(release)
        predicates = multivariate(
            encoding.codes(release), encoding, count=150, width=4, rng=np.random.default_rng(trial)
        )
        hits = [predicates.matches(encoding.codes(side)) == 1 for side in (original, control)]
        risk = risk_beyond(hits[0], hits[1])
        alarms += risk.excess_ci[0] > 0
        gains.append(risk.excess)
    # Nominal 2.5 %: more than 4 of 30 happens once in 1,500 suites.
    assert alarms <= 4
    assert abs(np.mean(gains)) < 3 * np.std(gains) / np.sqrt(30)


def test_a_release_that_holds_a_third_of_the_original_leaks_a_third() -> None:
    found = audit(1 / 3)
    linked = found[(LINKABILITY, "age, weight, ill | postcode, works, height")]
    assert linked.details["risk_ci"][0] < 1 / 3 < linked.details["risk_ci"][1] + 0.02
    single = found[(SINGLING_OUT, "4 columns, equal values")]
    assert 0.2 < single.details["risk"] < 0.45
    assert found[(INFERENCE, "ill (nearest)")].excess_ci[0] > 0
    member = found[(MEMBERSHIP, "density ratio")]
    assert 0.6 < member.value < 0.75
    # A third are there to the digit, and nothing else is: the surest third is right.
    assert member.details["tpr_at"]["0.1"]["value"] > 0.25


def test_a_smaller_control_scales_the_risk_of_singling_out_back() -> None:
    release, original, control = tables(1.0)
    few = {name: values[:300] for name, values in control.items()}
    found = audit_released_table(release, original, few, attacks=300)
    one = next(one for one in found if one.target == "4 columns, equal values")
    assert one.details["judged at records"] == 300
    assert one.details["scaled by"] == 4.0
    assert one.value == pytest.approx(0.25)
    assert one.details["risk"] == pytest.approx(1.0, abs=0.1)


def test_a_control_of_other_people_is_refused() -> None:
    release, original, control = tables(0.0)
    older = {**control, "age": control["age"] + 15}
    with pytest.raises(DataError, match="drawn like the original"):
        audit_released_table(release, original, older)


def test_what_cannot_be_asked_is_refused() -> None:
    release, original, control = tables(0.0)
    few = {name: values[:50] for name, values in control.items()}
    with pytest.raises(DataError, match="100 records"):
        audit_released_table(release, original, few)
    with pytest.raises(DataError, match="religion"):
        audit_released_table(release, original, control, secrets=("religion",))
    with pytest.raises(ConfigError, match="attacks"):
        audit_released_table(release, original, control, attacks=0)


@pytest.mark.slow
def test_the_census_table_copied_whole_and_not_at_all() -> None:
    """Adult, real: 3,000 people released as they are, and 3,000 others of the same census."""
    columns = adult_columns()
    names = [name for name in columns if name != "part"]
    order = np.random.default_rng(0).permutation(len(columns["age"]))
    original, control, others = (
        {name: columns[name][order[part * 3000 : (part + 1) * 3000]] for name in names}
        for part in range(3)
    )
    for release, leaks in ((original, True), (others, False)):
        found = audit_released_table(
            release, original, control, secrets=("occupation",), attacks=300
        )
        for one in found:
            if "boosting" in one.target:
                continue
            # Ten intervals a release: one may miss 0 by a little.
            assert (one.excess_ci[0] > 0.03) is leaks, one
            assert one.details["negative control"]["passed"], one
            assert one.details["positive control"]["passed"], one
        single = next(one for one in found if one.target == "4 columns")
        assert (single.details["risk"] > 0.95) is leaks
