"""The audit of training-set statistics: told where they shape the model, not where they don't."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from torch import nn

from reticent.attacks.finding import Finding
from reticent.attacks.shadow.recipe import TrainingRecipe
from reticent.attacks.shadow.training import train_models
from reticent.attacks.spec import Access, Labelled
from reticent.attacks.target import Victim
from reticent.audit.property_inference import audit_property
from reticent.errors import ConfigError, DataError

NET = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 2))
RECIPE = TrainingRecipe(size=250, epochs=8, batch_size=32, learning_rate=5e-3)


def pool(effect: float, seed: int = 0, n: int = 1600) -> tuple[Labelled, np.ndarray]:
    """SYNTHETIC records whose label depends on x1 by `effect`, with the group's own sign."""
    rng = np.random.default_rng(seed)
    group = rng.random(n) < 0.5
    x = rng.normal(size=(n, 6)).astype(np.float32)
    score = x[:, 0] + effect * np.where(group, 1, -1) * x[:, 1] + 0.5 * rng.normal(size=n)
    return Labelled(x=x, y=(score > 0).astype(np.int64)), group


def victim_of(data: Labelled, group: np.ndarray, share: float) -> Victim:
    rows = np.concatenate(
        [
            np.flatnonzero(group)[: round(250 * share)],
            np.flatnonzero(~group)[: round(250 * (1 - share))],
        ]
    )
    mask = np.isin(np.arange(len(data)), rows)[None]
    model = next(iter(train_models(NET, RECIPE, data, mask, seed=9)))
    return Victim.of_module(model.eval(), sample=data.x[:8], recipe=RECIPE, template=NET)


@pytest.mark.parametrize("access", [Access.SHADOW, Access.WEIGHTS])
def test_a_share_that_shapes_the_model_is_told(access: Access) -> None:
    data, group = pool(0.8)
    (found,) = audit_property(
        victim_of(data, group, 0.7), data, group, access=access, truth=1, shadows=40, targets=24
    )
    assert found.excess_ci[0] > 0.25
    assert found.adversary == ("client" if access is Access.SHADOW else "insider")
    assert found.details["victim"]["right"] is True
    assert found.details["positive control"]["passed"]
    assert found.details["negative control"]["passed"]
    assert Finding.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_a_share_that_changes_nothing_is_not_told_though_a_planted_one_is() -> None:
    data, group = pool(0.0)
    (found,) = audit_property(
        victim_of(data, group, 0.7), data, group, access=Access.WEIGHTS, shadows=40, targets=24
    )
    assert found.excess_ci[0] <= 0
    assert found.details["positive control"]["passed"]
    assert found.ceiling is not None
    assert found.ceiling > 0.75


def test_three_hypotheses_and_an_estimator() -> None:
    data, group = pool(0.8, seed=1)
    model = LogisticRegression().fit(data.x[:250], data.y[:250])
    victim = Victim.of_estimator(model, sample=data.x[:8], recipe=RECIPE)
    (found,) = audit_property(victim, data, group, shares=(0.1, 0.5, 0.9), shadows=20, targets=12)
    assert found.floor == pytest.approx(1 / 3)
    assert found.n == 36
    assert found.excess_ci[0] > 0.2


def test_what_cannot_be_asked_is_refused() -> None:
    data, group = pool(0.0)
    victim = victim_of(data, group, 0.5)
    with pytest.raises(ConfigError, match="access"):
        audit_property(victim, data, group, access=Access.LABEL)
    with pytest.raises(ConfigError, match="truth"):
        audit_property(victim, data, group, truth=2)
    with pytest.raises(DataError, match="others"):
        audit_property(victim, data, np.ones(len(data), dtype=bool))
