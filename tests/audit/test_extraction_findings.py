"""Extraction judged: exact theft found, cost of defences shown, controls that can fail."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from reticent.attacks.spec import Access, Labelled
from reticent.attacks.target import Victim
from reticent.audit.extraction import audit_extraction
from reticent.errors import ConfigError, DataError
from reticent.guarantee import Pillar

RNG = np.random.default_rng(0)
X = RNG.normal(size=(900, 8)).astype(np.float32)
WEIGHTS = RNG.normal(size=(8, 3))
Y = (X @ WEIGHTS + 2 * RNG.gumbel(size=(900, 3))).argmax(axis=1)
POOL, TEST = Labelled(x=X[:500], y=Y[:500]), Labelled(x=X[500:], y=Y[500:])


def linear(decimals: int | None = None) -> Victim:
    def answer(x: NDArray[Any]) -> NDArray[np.float64]:
        shares = np.exp(1.5 * x.astype(np.float64) @ WEIGHTS)
        shares /= shares.sum(axis=1, keepdims=True)
        if decimals is None:
            return shares
        few = np.round(shares, decimals)
        return np.asarray(few / few.sum(axis=1, keepdims=True))

    return Victim.of_function(answer, sample=X)


def test_a_linear_model_is_stolen_whole_and_the_curve_counts_what_was_asked() -> None:
    (found,) = audit_extraction(linear(), queries=POOL, test=TEST, budgets=(60,))
    assert (found.pillar, found.adversary, found.n) == (Pillar.MODEL, "client", 400)
    assert found.value == 1.0
    assert found.details["chosen attack"] == "equation solving"
    # Exact after d + 1 answers, which eight more confirm: the rest isn't asked.
    assert found.details["fidelity_curve"] == [[9 + 8, 1.0]]
    assert found.floor < 0.97
    assert found.excess_ci[0] > 0
    json.dumps(found.to_json(), allow_nan=False)


def test_rounding_is_shown_as_a_cost_beside_the_undefended_ceiling() -> None:
    (found,) = audit_extraction(
        linear(2), queries=POOL, test=TEST, budgets=(30, 400), undefended=linear()
    )
    assert found.ceiling == 1.0
    assert found.details["ceiling"] == "undefended model"
    curve = found.details["fidelity_curve"]
    assert curve[0][1] < curve[1][1]
    assert found.value > 0.97


def test_labels_alone_give_a_copy_too() -> None:
    (found,) = audit_extraction(
        linear(), queries=POOL, test=TEST, budgets=(400,), access=Access.LABEL
    )
    assert found.value > 0.9
    assert "hidden width" not in found.details
    assert found.details["fidelity_curve"][0][0] <= 400


def test_a_network_is_learnt_and_the_floor_is_what_own_labels_give() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 24), nn.Tanh(), nn.Linear(24, 3)).eval()
    with torch.no_grad():
        model[2].weight.mul_(5)
    victim = Victim.of_module(model, sample=X)
    (found,) = audit_extraction(victim, queries=POOL, test=TEST, budgets=(300,))
    # The attacker's labels have nothing to do with this model: only asking helps.
    assert found.floor < 0.75
    assert found.value > 0.85
    assert found.excess_ci[0] > 0.05


def test_a_model_without_a_rule_shows_no_excess() -> None:
    def lottery(x: NDArray[Any]) -> NDArray[np.float64]:
        bits = np.ascontiguousarray(x, dtype=np.float32).view(np.uint32).astype(np.uint64)
        mixed = (bits * np.uint64(40503)).sum(axis=1) >> np.uint64(9)
        return np.asarray(np.eye(3)[(mixed % np.uint64(3)).astype(int)] * 0.7 + 0.1)

    victim = Victim.of_function(lottery, sample=X)
    (found,) = audit_extraction(victim, queries=POOL, test=TEST, budgets=(300,))
    assert found.excess_ci[0] <= 0
    assert found.value < 0.45


def test_what_cannot_be_audited_is_refused() -> None:
    with pytest.raises(ConfigError, match="L1 or L2"):
        audit_extraction(linear(), queries=POOL, test=TEST, access=Access.WEIGHTS)
    with pytest.raises(ConfigError, match="budgets"):
        audit_extraction(linear(), queries=POOL, test=TEST, budgets=())
    with pytest.raises(DataError, match="20 records"):
        audit_extraction(linear(), queries=POOL, test=TEST.take(np.arange(5)))
    odd = Labelled(x=X[:50], y=np.full(50, 3))
    with pytest.raises(DataError, match="3 classes"):
        audit_extraction(linear(), queries=odd, test=TEST)
