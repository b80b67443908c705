"""Learning a copy: counted queries, doubt that pays, and nothing where there is nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from torch import nn

from reticent.attacks.extraction.choice import CHOICES
from reticent.attacks.extraction.label_only import BoundarySearch
from reticent.attacks.extraction.learning import LabelLearning, ScoreLearning
from reticent.attacks.target import Victim
from reticent.errors import BudgetExhaustedError, ConfigError, DataError, UnsupportedError

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2500, 10)).astype(np.float32)


def victim() -> Victim:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(10, 16), nn.Tanh(), nn.Linear(16, 4)).eval()
    with torch.no_grad():
        model[2].weight.mul_(6)
    return Victim.of_module(model, sample=X)


def agreement(victim: Victim, copy: Any, x: NDArray[np.float32]) -> float:
    return float((victim.labels(x) == copy.predict(x).argmax(axis=1)).mean())


@pytest.mark.parametrize("strategy", sorted(CHOICES))
@pytest.mark.parametrize("kind", [ScoreLearning, LabelLearning])
def test_a_copy_agrees_and_asks_exactly_what_it_may(kind: Any, strategy: Any) -> None:
    target = victim().at_scores(budget=400)
    copy = kind(queries=400, strategy=strategy, members=2).fit(target, X[:1500], seed=0)
    assert target.queries == copy.queries == 400
    labels = victim().labels(X[1500:])
    most = float(np.bincount(labels).max() / len(labels))
    found = agreement(victim(), copy, X[1500:])
    assert found > max(0.8, most + 0.2)


def test_more_queries_copy_better_from_scores_and_from_labels() -> None:
    for kind in (ScoreLearning, LabelLearning):
        few, many = (
            agreement(victim(), kind(queries=count).fit(victim().at_scores(), X, seed=0), X)
            for count in (40, 400)
        )
        assert few + 0.03 < many


def test_answers_that_follow_no_rule_cannot_be_learnt() -> None:
    def noise(x: NDArray[Any]) -> NDArray[np.float64]:
        bits = np.ascontiguousarray(x.astype(np.float32)).view(np.uint32).astype(np.uint64)
        mixed = (bits * np.uint64(2654435761)).sum(axis=1) >> np.uint64(7)
        return np.eye(4)[(mixed % np.uint64(4)).astype(int)] * 0.9 + 0.025

    lottery = Victim.of_function(noise, sample=X)
    copy = ScoreLearning(queries=400).fit(lottery.at_scores(), X[:1500], seed=0)
    assert 0.2 < agreement(lottery, copy, X[1500:]) < 0.3


def test_a_small_pool_is_stretched_and_the_budget_still_holds() -> None:
    target = victim().at_scores(budget=300)
    copy = ScoreLearning(queries=300).fit(target, X[:60], seed=0)
    assert target.queries == 300
    alone = ScoreLearning(queries=60).fit(victim().at_scores(), X[:60], seed=0)
    assert agreement(victim(), copy, X[1500:]) > agreement(victim(), alone, X[1500:])
    with pytest.raises(BudgetExhaustedError):
        ScoreLearning(queries=301).fit(victim().at_scores(budget=300), X, seed=0)


def test_a_network_like_the_targets_can_be_given() -> None:
    def make() -> nn.Module:
        return nn.Sequential(nn.Linear(10, 16), nn.Tanh(), nn.Linear(16, 4))

    copy = ScoreLearning(queries=400, make=make, members=1).fit(victim().at_scores(), X, seed=0)
    assert agreement(victim(), copy, X[1500:]) > 0.8


def test_a_network_with_one_logit_for_two_classes_can_be_given() -> None:
    torch.manual_seed(0)
    target = Victim.of_module(nn.Sequential(nn.Linear(10, 1)).eval(), sample=X)

    def make() -> nn.Module:
        return nn.Sequential(nn.Linear(10, 1))

    learn = ScoreLearning(queries=200, make=make, members=1, rounds=1)
    copy = learn.fit(target.at_scores(), X[:400], seed=0)
    assert agreement(target, copy, X[1500:]) > 0.9


def test_choices_pick_different_open_rows() -> None:
    rng = np.random.default_rng(0)
    unasked = np.arange(100, 200)
    votes = np.log(rng.dirichlet(np.ones(3), size=(2, 100)))
    for choose in CHOICES.values():
        picked = choose(unasked, votes, 20, rng)
        assert len(set(picked.tolist())) == 20
        assert np.isin(picked, unasked).all()
    flat = np.log(np.full((1, 100, 3), 1 / 3))
    flat[:, 30:] = np.log([0.98, 0.01, 0.01])
    for name in ("entropy", "margin"):
        assert (CHOICES[name](unasked, flat, 10, rng) < 130).all()


def test_choices_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ConfigError, match="strategy='luck'"):
        ScoreLearning(queries=10, strategy="luck")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="rounds=4"):
        ScoreLearning(queries=3)


@pytest.mark.parametrize("classes", [2, 4])
def test_a_linear_model_falls_to_labels_alone(classes: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, classes)).eval()
    truth = Victim.of_module(model, sample=X)
    budget = 700 * (classes - 1)
    target = truth.at_label(budget=budget)
    copy = BoundarySearch(queries=budget).fit(target, X[:200], seed=0)
    assert target.queries == copy.queries <= budget
    assert agreement(truth, copy, X) > 0.995
    learnt = LabelLearning(queries=budget).fit(truth.at_label(), X, seed=0)
    assert agreement(truth, learnt, X) < agreement(truth, copy, X)


def test_boundary_search_refuses_what_it_cannot_do() -> None:
    with pytest.raises(ConfigError, match="33 unknowns"):
        BoundarySearch(queries=100).fit(victim().at_label(), X, seed=0)
    same = Victim.of_function(lambda x: np.tile([0.9, 0.1], (len(x), 1)), sample=X)
    with pytest.raises(DataError, match="one class"):
        BoundarySearch(queries=1000).fit(same.at_label(), X, seed=0)
    wide = np.zeros((40, 5000), dtype=np.float32)
    large = Victim.of_function(lambda x: np.tile([0.9, 0.1], (len(x), 1)), sample=wide)
    with pytest.raises(UnsupportedError, match="5001 unknowns"):
        BoundarySearch(queries=1000).fit(large.at_label(), wide, seed=0)


def test_a_forest_that_answers_zero_is_copied_better_from_scores_than_from_labels() -> None:
    """The logarithm of 0 outweighs every other answer, unless it is kept in bounds."""
    x, y = load_digits(return_X_y=True)
    rows = np.random.default_rng(0).permutation(len(x))
    x, y = (x[rows] / 16).astype(np.float32), y[rows]
    forest = RandomForestClassifier(20, random_state=0).fit(x[:500], y[:500])
    target = Victim.of_estimator(forest, sample=x)
    scored = ScoreLearning(queries=300).fit(target.at_scores(), x[500:1000], seed=0)
    labelled = LabelLearning(queries=300).fit(target.at_label(), x[500:1000], seed=0)
    assert agreement(target, scored, x[1000:]) > agreement(target, labelled, x[1000:])
