"""Ordinary training learns, repeats, refuses to diverge silently, and averages its weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from reticent.data.task import Kind, Records
from reticent.errors import DataError
from reticent.training.plain import (
    LEAST_STEPS,
    MOST_BATCHES,
    Plan,
    batches,
    descend,
    fit,
    forward,
    steps_per_epoch,
    targets,
    task_loss,
)


def records(n: int = 200, *, seed: int = 0) -> Records:
    """SYNTHETIC: two clouds six standard deviations apart."""
    rng = np.random.default_rng(seed)
    public = rng.integers(2, size=n)
    x = rng.standard_normal((n, 4)).astype(np.float32)
    x[:, 0] += 6 * public
    return Records(x=x, public=public, private={}, users=None)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


def test_fit_learns_an_easy_task_and_leaves_the_given_model_alone() -> None:
    model = network()
    before = [parameter.clone() for parameter in model.parameters()]
    trained = fit(
        model,
        records(),
        records(seed=1),
        kind=Kind.CLASSIFICATION,
        plan=Plan(epochs=15, learning_rate=1e-2),
    )
    test = records(seed=2)
    accuracy = forward(trained.model, torch.from_numpy(test.x)).argmax(1).numpy() == test.public
    assert accuracy.mean() > 0.95
    assert not trained.model.training
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_fit_repeats_with_its_seed_and_differs_with_another() -> None:
    first, again, other = (
        fit(
            network(),
            records(),
            records(seed=1),
            kind=Kind.CLASSIFICATION,
            plan=Plan(epochs=2),
            seed=seed,
        ).validation_loss
        for seed in (3, 3, 4)
    )
    assert first == again
    assert first != other


def test_fit_refuses_a_diverged_network() -> None:
    with pytest.raises(DataError, match="diverged"):
        fit(
            network(),
            records(),
            records(seed=1),
            kind=Kind.CLASSIFICATION,
            plan=Plan(epochs=1, learning_rate=float("inf")),
        )


def test_batches_visit_every_row_once_and_drop_a_lonely_last_one() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.cat(list(batches(10, 4, generator)))
    assert sorted(rows.tolist()) == list(range(10))
    assert sum(len(part) for part in batches(9, 4, generator)) == 8
    assert [part.tolist() for part in batches(1, 4, generator)] == [[0]]


def test_task_loss_against_values_by_hand() -> None:
    outputs = torch.tensor([[0.0, 0.0], [0.0, np.log(3.0)]])
    wanted = targets(np.array([0, 1]), Kind.CLASSIFICATION)
    expected = (np.log(2) + np.log(4 / 3)) / 2
    assert float(task_loss(outputs, wanted, Kind.CLASSIFICATION)) == pytest.approx(expected)
    squared = task_loss(
        torch.tensor([[1.0], [2.0]]),
        targets(np.array([0.0, 4.0]), Kind.REGRESSION),
        Kind.REGRESSION,
    )
    assert float(squared) == pytest.approx((1 + 4) / 2)


def test_descend_reaches_the_minimum_of_a_quadratic() -> None:
    point = nn.Linear(1, 1, bias=False)
    goal = 3.0
    descend(
        point,
        [{"params": list(point.parameters()), "lr": 0.1}],
        loss=lambda rows: (point.weight - goal).square().sum(),
        count=64,
        epochs=10,
        batch_size=2,
        generator=torch.Generator().manual_seed(0),
    )
    assert float(point.weight.detach()) == pytest.approx(goal, abs=0.05)


def test_descend_keeps_the_average_of_the_weights_not_the_last() -> None:
    point = nn.Linear(1, 1, bias=False)
    seen: list[float] = []

    def loss(rows: torch.Tensor) -> torch.Tensor:
        seen.append(float(point.weight.detach()))
        return -point.weight.sum()

    descend(
        point,
        [{"params": list(point.parameters()), "lr": 0.1, "weight_decay": 0.0}],
        loss=loss,
        count=2,
        epochs=1,
        batch_size=2,
        generator=torch.Generator().manual_seed(0),
    )
    assert len(seen) == MOST_BATCHES == steps_per_epoch(2, 2, 1)
    assert seen[0] < float(point.weight.detach()) < seen[-1]


def test_small_sets_get_longer_epochs_and_large_ones_their_own() -> None:
    assert steps_per_epoch(200, 64, 8) * 8 == LEAST_STEPS
    assert steps_per_epoch(200, 64, 20) * 20 == LEAST_STEPS
    assert steps_per_epoch(100_000, 100, 8) == 1000


def test_descend_leaves_the_statistics_of_frozen_modules() -> None:
    frozen, free = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    network = nn.Sequential(frozen, free, nn.Linear(2, 1))
    x = 5 + torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
    descend(
        network,
        [{"params": list(network[2].parameters()), "lr": 1e-3}],
        loss=lambda rows: network(x[rows]).square().mean(),
        count=40,
        epochs=1,
        batch_size=8,
        generator=torch.Generator().manual_seed(0),
        frozen=[frozen],
    )
    assert torch.equal(frozen.running_mean, torch.zeros(2))  # type: ignore[arg-type]
    assert not torch.equal(free.running_mean, torch.zeros(2))  # type: ignore[arg-type]
    assert not network.training


def test_descend_refuses_a_loss_that_is_no_number() -> None:
    point = nn.Linear(1, 1)
    with pytest.raises(DataError, match="diverged"):
        descend(
            point,
            [{"params": list(point.parameters()), "lr": 1e-3}],
            loss=lambda rows: point.weight.sum() * float("nan"),
            count=4,
            epochs=1,
            batch_size=2,
            generator=torch.Generator().manual_seed(0),
        )


def test_forward_keeps_the_mode_and_ignores_batch_borders() -> None:
    network = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2)).train()
    x = torch.randn(7, 3)
    whole, parts = forward(network, x), forward(network, x, batch_size=2)
    assert network.training
    assert torch.allclose(whole, parts)
