"""Training in order is paid from budgets of its own relation, before it starts, and for good."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import killed
import pytest
import torch
from torch import Tensor, nn

from reticent.errors import (
    BudgetExhaustedError,
    ConfigError,
    DataError,
    EvidenceError,
    UnsupportedError,
)
from reticent.privacy.ledger import Cap, Ledger
from reticent.training.dp_sgd.charged import RENYI, Paid, digests, train_charged
from reticent.training.dp_sgd.clipping import AdaptiveQuantile
from reticent.training.dp_sgd.correlated import RELATION, OrderedPlan
from reticent.training.dp_sgd.ordered import train_ordered_charged
from reticent.training.dp_sgd.trainer import Plan

pytest.importorskip("dp_accounting")
PLAN = OrderedPlan(batch=32, passes=2, band=4)


def records() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(0, 2, (320,), generator=generator)
    x = torch.randn(320, 6, generator=generator) / 2
    x[:, 0] += 2.0 * y - 1.0
    return x, y


def granted(folder: Path, *, epsilon: float = 4.0, relation: str = RELATION) -> Ledger:
    ledger = Ledger.create(folder / "ledger.db")
    cap = Cap(epsilon=epsilon, delta=1e-4)
    ledger.grant("stream", digests(*records()), cap=cap, relation=relation)
    return ledger


def bought(ledger: Ledger, key: str, model: nn.Module | None = None, **options: Any) -> Paid:
    x, y = records()
    given: dict[str, Any] = {"epsilon": 2.0, "delta": 1e-5, "plan": PLAN}
    return train_ordered_charged(
        model or nn.Linear(6, 2), x, y, ledger=ledger, dataset="stream", key=key,
        **{**given, **options},
    )  # fmt: skip


def spent(ledger: Ledger) -> float:
    return float(ledger.balances()[0].epsilon)


def test_a_run_is_charged_what_it_claims(tmp_path: Path) -> None:
    ledger = granted(tmp_path)
    made = bought(ledger, "first", epsilon=1.0)
    assert made.trained.guarantee is not None
    strength = made.trained.guarantee.strength
    assert strength.neighboring_relation == ledger.dataset("stream").relation  # type: ignore
    assert made.charged_as == RENYI
    # Renyi curves are read off at the cap's larger delta.
    assert 0.6 < spent(ledger) <= 1.0
    assert ledger.charge(made.charge).state == "committed"
    with pytest.raises(ConfigError, match="committed"):
        bought(ledger, "first", epsilon=1.0)
    with pytest.raises(BudgetExhaustedError):
        bought(ledger, "second", epsilon=3.9)


def test_relations_do_not_pay_for_each_other(tmp_path: Path) -> None:
    x, y = records()
    ledger = granted(tmp_path)
    with pytest.raises(ConfigError, match="add or remove one"):
        train_charged(
            nn.Linear(6, 2), x, y, epsilon=1.0, delta=1e-5, ledger=ledger, dataset="stream",
            key="a", plan=Plan(steps=5, expected_batch=50),
        )  # fmt: skip
    with pytest.raises(ConfigError, match="relation"):
        ledger.grant("copy", digests(x, y), cap=Cap(epsilon=4.0, delta=1e-4))
    (tmp_path / "other").mkdir()
    other = granted(tmp_path / "other", relation="add or remove one")
    with pytest.raises(ConfigError, match="in its place"):
        bought(other, "a")
    assert spent(ledger) == spent(other) == 0


def test_what_would_break_the_guarantee_is_refused_before_the_charge(tmp_path: Path) -> None:
    ledger = granted(tmp_path)
    x, y = records()
    with pytest.raises(ConfigError, match="overlap"):
        bought(ledger, "a", plan=OrderedPlan(batch=160, passes=2, band=3))
    with pytest.raises(ConfigError, match="adapts"):
        bought(ledger, "a", clipping=AdaptiveQuantile(vote_sigma=5.0, expected_batch=32.0))
    with pytest.raises(UnsupportedError, match="GroupNorm"):
        bought(ledger, "a", nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 2)))
    given: dict[str, Any] = {"ledger": ledger, "dataset": "stream", "key": "a", "plan": PLAN}
    given |= {"epsilon": 1.0, "delta": 1e-5}
    with pytest.raises(EvidenceError, match="others"):
        train_ordered_charged(nn.Linear(6, 2), x + 1, y, **given)
    with pytest.raises(DataError, match="targets=319"):
        train_ordered_charged(nn.Linear(6, 2), x, y[:-1], **given)
    assert spent(ledger) == 0


def test_a_run_that_is_killed_stays_charged(tmp_path: Path) -> None:
    granted(tmp_path)
    path = tmp_path / "ledger.db"
    killed.in_a_child(lambda: bought(Ledger.open(path), "killed", progress=killed.die))
    ledger = Ledger.open(path)
    assert spent(ledger) > 1
    with pytest.raises(ConfigError, match="started"):
        bought(ledger, "killed")
