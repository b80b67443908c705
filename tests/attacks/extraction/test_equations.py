"""Equation solving: exact with d + 1 answers, adaptive under rounding, honest where it fails."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from torch import nn

from reticent.attacks.extraction.equations import EquationSolving
from reticent.attacks.spec import Attack
from reticent.attacks.target import Victim
from reticent.errors import BudgetExhaustedError, ConfigError


def softmax_regression(width: int, classes: int, *, size: float = 0.1) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(width, classes)).eval()
    with torch.no_grad():
        model[1].weight.normal_(0, size)
        model[1].bias.normal_(0, 1)
    return model


def records(count: int, *shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(1).normal(size=(count, *shape)).astype(np.float32)


def agreement(victim: Victim, copy: Any, x: NDArray[np.float32]) -> float:
    return float((victim.labels(x) == copy.predict(x).argmax(axis=1)).mean())


def test_softmax_regression_of_784_pixels_and_ten_classes_falls_to_785_queries() -> None:
    x = records(2000, 1, 28, 28)
    victim = Victim.of_module(softmax_regression(784, 10), sample=x)
    target = victim.at_scores(budget=785)
    copy = EquationSolving().fit(target, x[:50], seed=0)
    assert target.queries == copy.queries == 785
    assert agreement(victim, copy, x) == 1.0
    found, truth = copy.score(target, x), victim.log_probabilities(x)
    assert np.abs(np.exp(found) - np.exp(truth)).max() < 1e-5


@pytest.mark.parametrize(("offset", "size"), [(0.0, 0.02), (0.0, 30.0), (50.0, 0.02), (50.0, 3.0)])
def test_weights_come_back_whatever_the_features_units(offset: float, size: float) -> None:
    rng = np.random.default_rng(0)
    units = 10.0 ** rng.uniform(-1, 4, size=12)
    x = (offset + units * rng.normal(size=(300, 12))).astype(np.float32)
    weights, biases = size * rng.normal(size=(12, 4)) / units[:, None], rng.normal(size=4)

    def answer(batch: NDArray[Any]) -> NDArray[np.float64]:
        return (batch.astype(np.float64) - offset) @ weights + biases

    victim = Victim.of_function(answer, sample=x, outputs="logits")
    copy = EquationSolving(queries=40).fit(victim.at_scores(), x[:40], seed=0)
    assert copy.facts["exact"]
    assert copy.queries == 13 + 2 + 8
    centred = weights - weights.mean(axis=1, keepdims=True)
    assert np.allclose(copy.predict.weights, centred, rtol=1e-4, atol=1e-4 * np.abs(centred).max())
    assert agreement(victim, copy, x) == 1.0


def test_a_binary_estimator_falls_to_d_plus_1_queries() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 30)).astype(np.float32)
    y = (x @ rng.normal(size=30) + 0.3 * rng.normal(size=600) > 0.4).astype(int)
    victim = Victim.of_estimator(LogisticRegression(C=10).fit(x, y), sample=x)
    copy = EquationSolving().fit(victim.at_scores(budget=31), x[:20], seed=1)
    assert agreement(victim, copy, x) == 1.0
    apart = np.exp(copy.predict(x)) - np.exp(victim.log_probabilities(x))
    assert np.abs(apart).max() < 1e-4


def rounded(model: nn.Module, decimals: int) -> Any:
    def answer(x: NDArray[Any]) -> NDArray[np.float64]:
        with torch.no_grad():
            shares = torch.softmax(model(torch.from_numpy(x).float()).double(), dim=1).numpy()
        few = np.round(shares, decimals)
        return np.asarray(few / few.sum(axis=1, keepdims=True))

    return answer


def test_rounded_answers_break_the_equations_but_not_the_attack() -> None:
    x = records(3000, 60)
    model = softmax_regression(60, 5, size=0.5)
    victim = Victim.of_function(rounded(model, 3), sample=x)
    truth = Victim.of_module(model, sample=x)
    naive = EquationSolving().fit(victim.at_scores(), x[:50], seed=0)
    adaptive = EquationSolving(queries=1200).fit(victim.at_scores(budget=1200), x[:50], seed=0)
    assert agreement(truth, naive, x) < 0.99
    assert not adaptive.facts["exact"]
    assert adaptive.queries == 1200
    assert agreement(truth, adaptive, x) > 0.995


def test_one_decimal_costs_more_queries_and_protects_no_more() -> None:
    x = records(3000, 20)
    model = softmax_regression(20, 3, size=0.5)
    victim = Victim.of_function(rounded(model, 1), sample=x)
    truth = Victim.of_module(model, sample=x)
    few, many = (
        EquationSolving(queries=count).fit(victim.at_scores(), x[:50], seed=0)
        for count in (60, 3000)
    )
    assert agreement(truth, few, x) < agreement(truth, many, x)
    assert agreement(truth, many, x) > 0.985


def test_a_network_is_no_linear_model_and_the_check_says_so() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 40), nn.ReLU(), nn.Linear(40, 3)).eval()
    with torch.no_grad():
        model[0].weight.mul_(3)
        model[2].weight.mul_(6)
    x = records(500, 10)
    victim = Victim.of_module(model, sample=x)
    copy = EquationSolving(queries=100).fit(victim.at_scores(), x[:50], seed=0)
    assert copy.facts["exact"] is False
    assert agreement(victim, copy, x) < 0.98


def test_too_few_queries_and_a_spent_budget_are_refused() -> None:
    x = records(50, 10)
    victim = Victim.of_module(softmax_regression(10, 3), sample=x)
    with pytest.raises(ConfigError, match="d \\+ 1 = 11"):
        EquationSolving(queries=10).fit(victim.at_scores(), x, seed=0)
    with pytest.raises(BudgetExhaustedError):
        EquationSolving().fit(victim.at_scores(budget=10), x, seed=0)


def test_it_is_an_attack() -> None:
    attack: Attack[Any, Any, Any, Any] = EquationSolving()
    assert attack.spec.access == 2
