"""A bank spread over a Ray cluster equals the one trained here."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from torch import nn

from reticent.attacks.shadow import cluster
from reticent.attacks.shadow.bank import ShadowBank
from reticent.attacks.shadow.recipe import TrainingRecipe
from reticent.attacks.spec import Labelled
from reticent.errors import MissingExtraError


@pytest.mark.slow
def test_a_bank_trained_on_a_cluster_is_the_same_bank() -> None:
    pytest.importorskip("ray")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 6)).astype(np.float32)
    pool = Labelled(x=x, y=(x[:, 0] > 0).astype(np.int64))
    recipe = TrainingRecipe(size=60, epochs=2, batch_size=20)
    made = [
        ShadowBank.train(nn.Linear(6, 2), recipe, pool, count=70, seed=3, cluster=chosen)
        for chosen in (False, True)
    ]
    assert made[0].digest == made[1].digest
    np.testing.assert_allclose(made[0].log_probabilities, made[1].log_probabilities, atol=1e-6)


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"reticent\[cluster\]"):
        list(cluster.spread(lambda given, start: start, 0, [0]))
