"""The learnt decision and the choice of a scorer: on shadow targets, never on the audited model."""

from __future__ import annotations

import numpy as np
import pytest
from membership_worlds import planted
from sklearn.metrics import roc_auc_score

from reticent.attacks.membership.battery import DEFAULT, LEARNED, prepare
from reticent.attacks.membership.learned import features, fit_learned
from reticent.attacks.membership.scorers import SCORERS
from reticent.attacks.membership.signals import References, Signals
from reticent.attacks.spec import Access
from reticent.errors import ConfigError, DataError
from reticent.guarantee import Pillar


def test_the_learnt_decision_finds_what_no_ratio_looks_for() -> None:
    """Members' margins are drawn towards a middle value: no shift of the mean tells them."""
    rng = np.random.default_rng(0)
    found = []
    for _seed in range(2):
        member = rng.random((9, 3000)) < 0.5
        margin = rng.normal(size=(9, 3000)) * np.where(member, 0.3, 1.5)
        signals = Signals(margin=margin, log_confidence=-np.logaddexp(0, -margin), pool=3000)
        world = References(signals=signals, member=member)
        rest = world.without(0)
        learned = fit_learned(rest, models=range(8)).score(world.target(0), rest)
        ratio = SCORERS["RMIA online"].score(world.target(0), rest)
        found.append([roc_auc_score(member[0], scores) for scores in (learned, ratio)])
    learned_auc, ratio_auc = np.mean(found, axis=0)
    assert learned_auc > ratio_auc + 0.2


def test_the_learnt_decision_finds_nothing_in_clean_models() -> None:
    world = planted(models=9, rows=4000, effect=0)
    rest = world.without(0)
    found = fit_learned(rest, models=range(8)).score(world.target(0), rest)
    assert abs(roc_auc_score(world.member[0], found) - 0.5) < 0.03
    assert np.isfinite(features(world.target(0), rest)).all()


def test_two_references_teach_nothing() -> None:
    with pytest.raises(DataError, match="references"):
        fit_learned(planted(models=2, rows=50, effect=1), models=[0, 1])


def test_trials_come_without_the_shadow_targets_own_truth() -> None:
    """On clean models even the learnt decision must not find its own shadow targets' members."""
    battery = prepare(planted(models=6, rows=3000, effect=0), seed=0)
    for name, scores in battery.trials.items():
        areas = [roc_auc_score(t, s) for t, s in zip(battery.truth, scores, strict=True)]
        assert abs(np.mean(areas) - 0.5) < 0.015, name


def test_the_battery_chooses_without_the_audited_model() -> None:
    world = planted(models=9, rows=1500, effect=1)
    rest = world.without(0)
    battery = prepare(rest, seed=0)
    assert battery.chosen == max(battery.strength, key=battery.strength.__getitem__)
    assert set(battery.trials) == {*SCORERS, LEARNED}
    assert np.array_equal(battery.truth, rest.member[battery.models])
    own = battery.score(world.target(0))
    assert np.array_equal(own, battery.score(world.target(0), battery.chosen))


@pytest.mark.slow
def test_the_battery_is_no_worse_than_the_best_scorer() -> None:
    for models in (5, 30):
        gaps = []
        for seed in range(3):
            world = planted(models=models, rows=3000, effect=1.2, seed=seed, population=300)
            battery = prepare(world.without(0), seed=seed)
            areas = {
                name: roc_auc_score(world.member[0], battery.score(world.target(0), name))
                for name in battery.trials
            }
            gaps.append(max(areas.values()) - areas[battery.chosen])
        assert np.mean(gaps) < 0.015


def test_too_few_references_to_choose_take_the_default() -> None:
    world = planted(models=3, rows=200, effect=2)
    battery = prepare(world.without(0), seed=0)
    assert battery.chosen == DEFAULT
    assert len(battery.models) == 0
    assert roc_auc_score(world.member[0], battery.score(world.target(0))) > 0.6
    three = prepare(planted(models=3, rows=200, effect=2), seed=0)
    assert LEARNED not in three.trials
    assert three.strength


def test_unknown_scorers_are_refused() -> None:
    world = planted(models=5, rows=100, effect=1)
    with pytest.raises(ConfigError, match="oracle"):
        prepare(world, seed=0, names=("oracle",))
    with pytest.raises(ConfigError, match="references"):
        prepare(planted(models=3, rows=100, effect=1), seed=0, names=(LEARNED,))
    with pytest.raises(ConfigError, match="oracle"):
        prepare(world, seed=0, names=("RMIA online",)).score(world.target(0), "oracle")


def test_every_scorer_states_what_it_needs() -> None:
    for name, scorer in SCORERS.items():
        assert scorer.spec.name == name
        assert scorer.spec.pillar is Pillar.TRAINING_DATA
        assert scorer.spec.access is Access.SHADOW
        assert "20" in scorer.spec.reference
