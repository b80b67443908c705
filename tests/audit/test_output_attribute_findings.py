"""The audit of outputs: an overfitted model tells on its members, a fair one on nobody."""

from __future__ import annotations

import json
import zlib

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression

from reticent.attacks.attribute.imputation import Sensitive
from reticent.attacks.finding import Finding
from reticent.attacks.shadow.recipe import TrainingRecipe
from reticent.attacks.spec import Access, Labelled
from reticent.attacks.target import Victim
from reticent.audit.output_attributes import ATTACK, GAP, People, audit_output_attributes
from reticent.errors import ConfigError, DataError

BIT = Sensitive(columns=(0,), values=np.array([[0], [1]], dtype=np.float32))
FAST = ("linear",)


def people(n: int, seed: int, *, effect: float, users: int | None = None) -> People:
    """SYNTHETIC people: an attribute, five numbers of which one hints at it, a noisy label."""
    rng = np.random.default_rng(seed)
    owner = None if users is None else np.arange(n) % users
    s = rng.integers(2, size=n) if owner is None else rng.integers(2, size=users)[owner]
    x = np.column_stack([s, rng.normal(size=(n, 5))])
    x[:, 1] += 0.5 * s
    y = (x[:, 2] + effect * (s - 0.5) + 0.8 * rng.normal(size=n) > 0).astype(np.int64)
    return People(records=Labelled(x=x.astype(np.float32), y=y, users=owner), attribute=s)


def forest(data: People, *, depth: int | None, blind: bool = False) -> Victim:
    x = data.records.x.copy()
    if blind:
        x[:, 0] = 0
    model = RandomForestClassifier(60, max_depth=depth, bootstrap=False, random_state=0)
    model.fit(x, data.records.y)

    def answer(given: np.ndarray) -> np.ndarray:
        seen = given.copy()
        if blind:
            seen[:, 0] = 0
        return np.asarray(model.predict_proba(seen))

    return Victim.of_function(answer, sample=x)


def by_target(findings: tuple[Finding, ...]) -> dict[str, Finding]:
    return {one.target: one for one in findings}


def test_an_overfitted_model_tells_its_members_attribute_and_not_others() -> None:
    members, others, own = (people(900, seed, effect=1.0) for seed in (0, 1, 2))
    found = by_target(
        audit_output_attributes(
            forest(members, depth=None),
            members,
            others,
            own,
            name="s",
            sensitive=BIT,
            families=FAST,
        )
    )
    gap = found["s (confidence)"]
    assert gap.attack == GAP
    assert gap.excess_ci[0] > 0.05
    inside, outside = found["s of members"], found["s of non-members"]
    assert inside.attack == ATTACK
    assert inside.details["without own records"]["confidence"]["excess_ci"][0] > 0.05
    assert outside.details["without own records"]["confidence"]["excess_ci"][0] < 0
    for one in (inside, outside):
        assert one.details["positive control"]["passed"]
        assert one.details["negative control"]["passed"]
        assert one.ceiling is not None
        assert one.ceiling > 0.95
        assert one.floor > 0.55
    for one in found.values():
        assert Finding.from_json(json.loads(json.dumps(one.to_json()))) == one


def test_a_model_that_ignores_the_attribute_adds_nothing_to_imputation() -> None:
    members, others, own = (people(900, seed, effect=1.0) for seed in (3, 4, 5))
    found = audit_output_attributes(
        forest(members, depth=4, blind=True), members, others, own, sensitive=BIT, families=FAST
    )
    assert len(found) == 4
    for one in found:
        assert one.excess_ci[0] <= 0, one


def test_a_model_that_knows_the_hidden_attribute_of_everybody_leaks_population_not_members() -> (
    None
):
    """The attribute is no input; the service's answers carry it for members and others alike."""
    members, others, own = (people(900, seed, effect=0.0, users=60) for seed in (6, 7, 8))
    hidden = [
        People(
            records=Labelled(x=part.records.x[:, 1:], y=part.records.y, users=part.records.users),
            attribute=part.attribute,
        )
        for part in (members, others, own)
    ]
    secret = {
        row.tobytes(): value
        for part in hidden
        for row, value in zip(part.records.x, part.attribute, strict=True)
    }

    def answer(x: np.ndarray) -> np.ndarray:
        marks = np.array([secret[row.tobytes()] for row in x])
        noise = np.array([np.random.default_rng(zlib.crc32(row.tobytes())).normal() for row in x])
        logit = 0.8 * (marks - 0.5) + noise
        high = 1 / (1 + np.exp(-logit))
        return np.stack([1 - high, high], axis=1)

    victim = Victim.of_function(answer, sample=hidden[0].records.x)
    found = by_target(audit_output_attributes(victim, *hidden, families=FAST, requests=(1, 8)))
    assert "attribute (confidence)" not in found
    assert found["attribute of non-members"].excess_ci[0] > 0.05
    gap = found["attribute (trained)"]
    assert gap.excess_ci[0] <= 0 <= gap.excess_ci[1]
    pooled = found["attribute of members"]
    assert pooled.requests == 8
    assert pooled.value > 0.8


def test_labels_alone_are_a_weaker_look_at_the_same_model() -> None:
    members, others, own = (people(600, seed, effect=1.0) for seed in (9, 10, 11))
    victim = forest(members, depth=None)
    found = by_target(
        audit_output_attributes(
            victim, members, others, own, sensitive=BIT, families=FAST, access=Access.LABEL
        )
    )
    assert found["attribute of members"].details["level"] == "L1 (label)"
    assert "posterior" not in found["attribute of members"].details["without own records"]


def test_people_who_do_not_hold_what_is_said_of_them_are_refused() -> None:
    members, others, own = (people(60, seed, effect=1.0) for seed in (0, 1, 2))
    victim = forest(members, depth=3)
    lying = People(records=own.records, attribute=1 - own.attribute)
    with pytest.raises(DataError, match="differs"):
        audit_output_attributes(victim, members, others, lying, sensitive=BIT)
    with pytest.raises(ConfigError, match="access"):
        audit_output_attributes(victim, members, others, own, access=Access.WEIGHTS)
    with pytest.raises(DataError, match="60 people"):
        People(records=own.records, attribute=own.attribute[:5])


def test_a_model_of_ones_own_teaches_how_members_are_answered() -> None:
    """At shadow level the attackers learn what an answer about a member looks like."""
    members, others, own = (people(700, seed, effect=0.6) for seed in (12, 13, 14))
    forest = RandomForestClassifier(60, bootstrap=False, random_state=0)
    forest.fit(members.records.x, members.records.y)
    victim = Victim.of_estimator(forest, sample=members.records.x, recipe=TrainingRecipe(size=700))
    found = by_target(
        audit_output_attributes(
            victim, members, others, own, sensitive=BIT, families=FAST, access=Access.SHADOW
        )
    )
    assert found["attribute of members"].details["answers used"]
    assert found["attribute of members"].excess_ci[0] > 0.05
    assert found["attribute (trained)"].excess_ci[0] > 0.05
    few = People(records=own.records.take(np.arange(300)), attribute=own.attribute[:300])
    with pytest.raises(DataError, match="700 own records"):
        audit_output_attributes(victim, members, others, few, sensitive=BIT, access=Access.SHADOW)


def test_whoever_sees_the_answer_a_person_got_matches_it() -> None:
    """Every tried value gives its own scores, so the observed ones name the true value."""
    members, others, own = (people(500, seed, effect=1.0) for seed in (15, 16, 17))
    model = LogisticRegression().fit(members.records.x, members.records.y)
    victim = Victim.of_estimator(model, sample=members.records.x)
    found = by_target(
        audit_output_attributes(
            victim, members, others, own, sensitive=BIT, families=("boosting",), observed=True
        )
    )
    for group in ("members", "non-members"):
        one = found[f"attribute of {group}"]
        assert one.value > 0.9
        assert one.excess_ci[0] > 0.1
        assert one.details["without own records"]["matching"]["value"] == 1.0
    with pytest.raises(ConfigError, match="sensitive"):
        audit_output_attributes(victim, members, others, own, observed=True)
