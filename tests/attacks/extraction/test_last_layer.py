"""The last layer: width and column space come back where they show, and not where they can't."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from reticent.attacks.extraction.last_layer import LastLayerSearch
from reticent.attacks.target import Victim
from reticent.errors import ConfigError

X = np.random.default_rng(0).normal(size=(400, 30)).astype(np.float32)


def network(width: int, classes: int) -> nn.Sequential:
    torch.manual_seed(width)
    return nn.Sequential(
        nn.Linear(30, 64), nn.ReLU(), nn.Linear(64, width), nn.Tanh(), nn.Linear(width, classes)
    ).eval()


@pytest.mark.parametrize(("width", "classes"), [(5, 20), (16, 100), (40, 300)])
def test_width_and_weights_up_to_a_change_of_basis_come_back(width: int, classes: int) -> None:
    model = network(width, classes)
    target = Victim.of_module(model, sample=X).at_scores(budget=200)
    found = LastLayerSearch(queries=200).fit(target, X, seed=0)
    weights = model[4].weight.detach().numpy().astype(np.float64)
    assert found.width == width
    assert found.queries == 200
    assert found.residual(weights) < 1e-3
    # The measure can fail: other weights of the same shape aren't in the subspace.
    other = np.random.default_rng(1).normal(size=weights.shape)
    assert found.residual(other) > 0.3


def test_no_width_is_claimed_where_answers_fill_all_dimensions() -> None:
    for width, classes, queries in ((64, 10, 200), (40, 300, 30)):
        victim = Victim.of_module(network(width, classes), sample=X)
        assert LastLayerSearch(queries=queries).fit(victim.at_scores(), X, seed=0).width is None


def test_more_queries_than_records_are_refused() -> None:
    victim = Victim.of_module(network(5, 20), sample=X)
    with pytest.raises(ConfigError, match="queries=401"):
        LastLayerSearch(queries=401).fit(victim.at_scores(), X, seed=0)
