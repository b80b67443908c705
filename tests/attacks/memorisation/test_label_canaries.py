"""Label canaries: a classifier that was trained on random labels gives them away."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from reticent.attacks.memorisation.exposure import measure_exposures
from reticent.attacks.memorisation.labels import LabelCosts, draw_label_canaries, label_of
from reticent.attacks.target import Victim
from reticent.audit.memorisation import audit_memorisation
from reticent.errors import ConfigError

X = np.random.default_rng(0).normal(size=(160, 20)).astype(np.float32)


def trained(rows: list[int], labels: list[int]) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(20, 128), nn.ReLU(), nn.Linear(128, 8))
    optimiser = torch.optim.Adam(net.parameters(), 3e-3)
    fed, wanted = torch.from_numpy(X[rows]), torch.tensor(labels)
    for _step in range(150):
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(fed), wanted).backward()
        optimiser.step()
    return net.eval()


def test_random_labels_that_were_trained_on_are_exposed_and_others_are_not() -> None:
    planted = draw_label_canaries(range(80), 8, seed=1)
    unseen = draw_label_canaries(range(80, 160), 8, seed=2)
    net = trained(list(range(80)), [label_of(canary) for canary in planted])
    target = Victim.of_module(net, sample=X).at_scores(budget=160)
    costs = LabelCosts.of_target(target, X)
    assert target.queries == 160
    (found,) = audit_memorisation(costs, planted, unseen)
    assert found.value > 2.9
    assert found.details["p of no memorisation"] < 1e-9
    clean = trained(list(range(80)), [0] * 40 + [1] * 40)
    costs = LabelCosts.of_target(Victim.of_module(clean, sample=X).at_scores(), X)
    (found,) = audit_memorisation(costs, planted, unseen)
    assert found.details["p of no memorisation"] > 0.01


def test_an_exposure_is_the_rank_of_the_label_among_the_classes() -> None:
    logs = np.log(np.array([[0.5, 0.3, 0.15, 0.05]]))
    canaries = draw_label_canaries([0] * 30, 4, seed=0)
    for canary, found in zip(
        canaries, measure_exposures(LabelCosts(log_probabilities=logs), canaries), strict=True
    ):
        assert found.rank == label_of(canary) + 1
        assert found.bits == pytest.approx(2 - np.log2(label_of(canary) + 1))
    with pytest.raises(ConfigError, match="classes=1"):
        draw_label_canaries([0], 1)
