"""The linkage audits: released people are found, absent, shuffled and k-anonymous ones are not."""

from __future__ import annotations

import json

import numpy as np
import pytest

from reticent.attacks.finding import Finding
from reticent.attacks.linkage.ratings import Ratings, synthetic_ratings
from reticent.audit.linkage import audit_linkage, audit_record_linkage, glimpse
from reticent.errors import ConfigError, DataError


def test_an_acquaintance_knows_what_was_said_and_no_more() -> None:
    original = synthetic_ratings(60, 80, mean=20, seed=0)
    users = np.arange(60)
    seen = glimpse(original, users, known=5, wrong=2, day_error=3, seed=1)
    assert original.days is not None
    assert seen.days is not None
    for user in users:
        mine = slice(original.starts[user], original.starts[user + 1])
        told = slice(seen.starts[user], seen.starts[user + 1])
        true = np.isin(seen.items[told], original.items[mine])
        assert (~true).sum() == 2
        assert true.sum() == min(3, mine.stop - mine.start)
        for item, value, day in zip(
            seen.items[told][true], seen.values[told][true], seen.days[told][true], strict=True
        ):
            place = mine.start + int(np.flatnonzero(original.items[mine] == item)[0])
            assert value == original.values[place]
            assert abs(day - original.days[place]) <= 3


def test_eight_ratings_find_a_person_and_nobody_is_found_who_is_not_there() -> None:
    original = synthetic_ratings(3000, 1500, mean=40, seed=3)
    (found,) = audit_linkage(original, original, np.arange(3000), targets=200)
    assert found.value > 0.95
    assert found.ceiling is not None
    assert found.ceiling > 0.95
    assert found.details["positive control"]["passed"]
    assert found.details["claimed and wrong"] < 0.02
    assert found.details["right among 10"] >= found.details["right without threshold"]
    # Absent people are claimed now and then: the threshold of the paper is no proof.
    assert found.details["negative control"]["claimed"] < 0.4
    (strict,) = audit_linkage(original, original, np.arange(3000), targets=200, threshold=6.0)
    assert strict.details["negative control"]["claimed"] < 0.1
    assert Finding.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_ratings_dealt_to_other_users_link_nobody() -> None:
    """The release keeps every item's raters and days, but nobody's two ratings together."""
    original = synthetic_ratings(2000, 800, mean=30, seed=4)
    rng = np.random.default_rng(0)
    owner = rng.integers(2000, size=len(original.items))
    keys = np.unique(owner * original.width + original.items, return_index=True)[1]
    assert original.days is not None
    mixed = Ratings.of_triplets(
        owner[keys], original.items[keys], original.values[keys], original.days[keys],
        count=2000, width=original.width,
    )  # fmt: skip
    (found,) = audit_linkage(mixed, original, np.arange(2000), targets=200)
    assert found.excess_ci[0] <= 0.0
    assert found.ceiling is not None
    assert found.ceiling > 0.9


def test_ratings_that_cannot_be_linked_are_refused() -> None:
    original = synthetic_ratings(50, 60, mean=10)
    with pytest.raises(DataError, match="truth"):
        audit_linkage(original, original, np.arange(49))
    with pytest.raises(DataError, match="truth=-1"):
        audit_linkage(original, original, np.full(50, -1))
    with pytest.raises(ConfigError, match="wrong"):
        audit_linkage(original, original, np.arange(50), known=2, wrong=2)


def people(n: int, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    ages = rng.integers(20, 80, size=n)
    return {
        "age": ages,
        "sex": np.array(["f", "m"])[rng.integers(2, size=n)],
        "zip": rng.integers(40, size=n).astype(str),
        "ill": np.where(rng.random(n) < 0.3, "yes", "no"),
    }


def recode(table: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {**table, "age": table["age"] // 30, "zip": np.repeat("*", len(table["zip"]))}


def test_quasi_identifiers_find_people_until_the_table_is_recoded() -> None:
    table = people(1000, 0)
    names, truth = ("age", "sex", "zip"), np.arange(1000)
    plain, secret = audit_record_linkage(table, table, truth, quasi_identifiers=names, secret="ill")
    coarse, hidden = audit_record_linkage(
        recode(table), table, truth,
        quasi_identifiers=names, secret="ill", generalise=recode, undefended=table,
    )  # fmt: skip
    assert plain.value > 0.85
    assert coarse.details["smallest class"] > 50
    assert coarse.value < 0.02
    assert coarse.ceiling is not None
    assert coarse.ceiling == pytest.approx(plain.value, abs=0.05)
    assert secret.excess_ci[0] > 0.15
    assert hidden.excess_ci[1] < 0.05
    assert plain.details["negative control"]["share linked"] < 0.02
    for one in (plain, secret, coarse, hidden):
        assert Finding.from_json(json.loads(json.dumps(one.to_json()))) == one


def test_a_class_of_one_secret_tells_it_however_large_it_is() -> None:
    """k-anonymity without diversity: nobody is singled out, and everybody's secret is told."""
    n = 600
    group = np.arange(n) % 6
    table = {"zip": group.astype(str), "ill": np.where(group < 2, "yes", "no")}
    linked, told = audit_record_linkage(
        table, table, np.arange(n), quasi_identifiers=("zip",), secret="ill"
    )
    assert linked.value < 0.05
    assert told.value == 1.0
    assert told.excess_ci[0] > 0.25
    assert told.details["people in classes of one secret"] == 1.0


def test_a_table_that_nobody_is_in_is_refused() -> None:
    table = people(20, 0)
    with pytest.raises(DataError, match="released"):
        audit_record_linkage(table, table, np.full(20, -1), quasi_identifiers=("age",))
    with pytest.raises(DataError, match="truth"):
        audit_record_linkage(table, table, np.arange(21), quasi_identifiers=("age",))
