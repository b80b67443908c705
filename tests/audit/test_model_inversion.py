"""Inversion judged: by another family of model, against guesses that need no target."""

import json

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from reticent.attacks.finding import Finding
from reticent.attacks.inversion.ascent import ConfidenceAscent
from reticent.attacks.inversion.tables import Sensitive
from reticent.attacks.spec import Labelled
from reticent.attacks.target import Victim
from reticent.audit.model_inversion import (
    _interval,
    audit_model_inversion,
    audit_table_inversion,
)
from reticent.data.embedded import digits
from reticent.errors import DataError
from reticent.guarantee import Pillar

TASK = digits(public="digit")
ALL = Labelled(x=TASK.x, y=TASK.public)
LOW = np.random.default_rng(0).permutation(np.flatnonzero(TASK.public < 5))
TRAIN, PRIVATE = ALL.take(LOW[:450]), ALL.take(LOW[450:])
PUBLIC = ALL.take(np.flatnonzero(TASK.public >= 5))
ASCENT = (ConfidenceAscent(objective="logit", steps=120),)


def victim(*, trained: bool = True) -> Victim:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 5))
    if trained:
        optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
        x, y = torch.from_numpy(TRAIN.x), torch.from_numpy(TRAIN.y)
        for _ in range(150):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimiser.step()
    return Victim.of_module(model.eval(), sample=TASK.x)


def test_a_trained_model_shows_its_classes_and_a_random_one_does_not() -> None:
    seen = []
    (found,) = audit_model_inversion(victim(), PUBLIC, PRIVATE, attacks=ASCENT, keep=seen.append)
    assert found.pillar is Pillar.TRAINING_DATA
    # Public records hold no class of the target: a mean picture is right once in five.
    assert found.floor == pytest.approx(0.2)
    assert found.value > 0.7
    assert found.n == 5
    assert found.details["positive control"] > 0.7
    assert found.details["judge's accuracy on held-out records"] > 0.9
    assert seen[0].inputs.shape == seen[0].best.shape == seen[0].floor.shape == (5, 1, 8, 8)
    assert Finding.from_json(json.loads(json.dumps(found.to_json()))) == found
    (random,) = audit_model_inversion(victim(trained=False), PUBLIC, PRIVATE, attacks=ASCENT)
    assert random.value < found.value - 0.3
    assert random.excess_ci[0] <= 0


def test_where_the_classes_are_public_inversion_adds_nothing() -> None:
    (found,) = audit_model_inversion(victim(), TRAIN, PRIVATE, attacks=ASCENT)
    assert found.floor == 1.0
    assert found.excess <= 0
    assert found.excess_ci[0] < 0


def test_the_ceiling_is_the_undefended_twin_where_there_is_one() -> None:
    (found,) = audit_model_inversion(
        victim(trained=False), PUBLIC, PRIVATE, attacks=ASCENT, undefended=victim()
    )
    assert found.ceiling > 0.7 > found.value


def test_a_judge_that_does_not_know_the_classes_is_refused() -> None:
    rng = np.random.default_rng(0)
    blind = Labelled(x=PRIVATE.x, y=rng.permutation(PRIVATE.y))
    with pytest.raises(DataError, match="judge"):
        audit_model_inversion(victim(), PUBLIC, blind, attacks=ASCENT)
    with pytest.raises(DataError, match="all 5 classes"):
        audit_model_inversion(victim(), PUBLIC, PRIVATE.take(PRIVATE.y > 0), attacks=ASCENT)


def test_the_interval_counts_classes_and_rounds_outwards() -> None:
    assert _interval(np.ones(5))[0] == pytest.approx(0.025 ** (1 / 5))
    assert _interval(np.zeros(5))[1] == pytest.approx(1 - 0.025 ** (1 / 5))
    low, high = _interval(np.array([1.0, 0.5]))
    assert low == pytest.approx(1 - 0.975**0.5)
    assert high == 1.0


def people(count: int, seed: int) -> Labelled:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, 6))
    x[:, 2] = rng.integers(2, size=count)
    return Labelled(x=x.astype(np.float32), y=rng.integers(2, size=count))


def lookup(members: Labelled) -> Victim:
    known = {row.tobytes(): label for row, label in zip(members.x, members.y, strict=True)}

    def answer(x: np.ndarray) -> np.ndarray:
        found = np.full((len(x), 2), 0.5)
        for place, row in enumerate(np.ascontiguousarray(x, dtype=np.float32)):
            if row.tobytes() in known:
                found[place] = [0.1, 0.1]
                found[place, known[row.tobytes()]] = 0.9
        return found

    return Victim.of_function(answer, sample=members.x)


def test_a_model_that_remembers_rows_tells_a_hidden_coin_and_only_of_members() -> None:
    members, others, public = people(200, 0), people(200, 1), people(400, 2)
    sensitive = Sensitive.of(public.x, 2)
    for found in audit_table_inversion(
        lookup(members), members, public, sensitive, non_members=others
    ):
        assert found.value > 0.9
        assert found.excess_ci[0] > 0.2
        assert abs(found.details["on non-members"] - 0.5) < 0.12
        assert abs(found.details["negative control"] - 0.5) < 0.12
        assert found.details["positive control"] == 1.0
        assert Finding.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_a_model_that_learnt_nothing_of_the_coin_tells_nothing_beyond_imputation() -> None:
    members, public = people(800, 5), people(600, 6)
    model = LogisticRegression().fit(public.x, public.y)
    for found in audit_table_inversion(
        Victim.of_estimator(model, sample=public.x), members, public, Sensitive.of(public.x, 2)
    ):
        assert found.excess_ci[0] < 0.02
        assert found.ceiling == 1.0
