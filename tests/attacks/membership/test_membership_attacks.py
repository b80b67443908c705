"""The attacks through the suite's interface: what they ask, and that they need what they state."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from reticent.attacks.membership.attack import (
    LabelAttack,
    LossAttack,
    QuantileAttack,
    ShadowAttack,
    Shadows,
)
from reticent.attacks.membership.lira import lira_online
from reticent.attacks.membership.signals import References
from reticent.attacks.shadow.bank import ShadowBank
from reticent.attacks.shadow.recipe import TrainingRecipe
from reticent.attacks.spec import Access, Attack, Labelled
from reticent.attacks.target import LabelTarget, ScoreTarget, ShadowTarget, Victim
from reticent.errors import ConfigError, DataError

RECIPE = TrainingRecipe(
    size=100, epochs=40, batch_size=20, optimiser="adam", learning_rate=0.01, weight_decay=0
)
RNG = np.random.default_rng(0)
RECORDS = Labelled(x=RNG.normal(size=(260, 8)).astype(np.float32), y=RNG.integers(2, size=260))
POOL, POPULATION = RECORDS.take(np.arange(200)), RECORDS.take(np.arange(200, 260))


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2))


@pytest.fixture(scope="module")
def bank() -> ShadowBank:
    return ShadowBank.train(network(), RECIPE, POOL, population=POPULATION, count=8, seed=1)


@pytest.fixture(scope="module")
def trained() -> tuple[Victim, np.ndarray]:
    torch.manual_seed(3)
    member = np.zeros(200, dtype=bool)
    member[RNG.permutation(200)[:100]] = True
    net, x, y = network(), torch.from_numpy(POOL.x[member]), torch.from_numpy(POOL.y[member])
    optimiser = torch.optim.Adam(net.parameters(), lr=0.01)
    for _epoch in range(40):
        for rows in torch.randperm(100).split(20):
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
            optimiser.step()
    victim = Victim.of_module(net.eval(), sample=POOL.x, recipe=RECIPE, template=network())
    return victim, member


@pytest.mark.parametrize("scorer", ["LiRA online", "RMIA offline", "BaVarIA", "learned", None])
def test_shadow_attacks_find_members_from_one_question_per_record(scorer, bank, trained) -> None:
    victim, member = trained
    attack: Attack[ShadowTarget, Shadows, np.ndarray, np.ndarray] = ShadowAttack(scorer=scorer)
    target = victim.at_shadow()
    fitted = attack.fit(target, Shadows(bank=bank, pool=POOL, population=POPULATION), seed=0)
    assert target.queries == 0
    rows = np.arange(200)[::2]
    scores = fitted.score(target, rows)
    assert target.queries == 260
    assert scores.shape == (100,)
    assert roc_auc_score(member[rows], scores) > 0.6
    assert attack.spec.access is Access.SHADOW


def test_the_interface_gives_what_the_function_gives(bank, trained) -> None:
    victim, _member = trained
    shadows = Shadows(bank=bank, pool=POOL, population=POPULATION)
    fitted = ShadowAttack(scorer="LiRA online").fit(victim.at_shadow(), shadows, seed=0)
    direct = lira_online(shadows.signals(victim.at_scores()), References.of_bank(bank))
    assert np.array_equal(fitted.score(victim.at_shadow(), np.arange(200)), direct)


def test_a_bank_of_another_recipe_or_other_records_is_refused(bank, trained) -> None:
    victim, _member = trained
    other = Shadows(
        bank=replace(bank, recipe=replace(RECIPE, epochs=2)), pool=POOL, population=POPULATION
    )
    with pytest.raises(ConfigError, match="recipe"):
        ShadowAttack().fit(victim.at_shadow(), other, seed=0)
    with pytest.raises(DataError, match="bank"):
        Shadows(bank=bank, pool=POOL)
    with pytest.raises(ConfigError, match="scorer"):
        ShadowAttack(scorer="oracle")


@pytest.mark.parametrize("kind", ["gap", "noise", "boundary"])
def test_label_attacks_find_members_of_an_overfit_model(kind, trained) -> None:
    victim, member = trained
    attack: Attack[LabelTarget, None, Labelled, np.ndarray] = LabelAttack(kind=kind)
    scores = attack.fit(victim.at_label(), None, seed=1).score(victim.at_label(), POOL)
    assert roc_auc_score(member, scores) > 0.6
    assert attack.spec.access is Access.LABEL
    with pytest.raises(ConfigError, match="kind"):
        LabelAttack(kind="oracle")


def test_attacks_from_scores_find_members_of_an_overfit_model(trained) -> None:
    victim, member = trained
    loss: Attack[ScoreTarget, None, Labelled, np.ndarray] = LossAttack()
    quantile: Attack[ScoreTarget, Labelled, Labelled, np.ndarray] = QuantileAttack()
    for attack, known in ((loss, None), (quantile, POPULATION)):
        fitted = attack.fit(victim.at_scores(), known, seed=0)
        scores = fitted.score(victim.at_scores(), POOL)
        assert roc_auc_score(member, scores) > 0.6
        assert attack.spec.access is Access.SCORES
    with pytest.raises(ConfigError, match="fit"):
        QuantileAttack().score(victim.at_scores(), POOL)
