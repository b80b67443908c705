"""Training that the ledger pays for: once, before it starts, and for good."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import killed
import numpy as np
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
from reticent.privacy.ledger.files import file_digests
from reticent.training.dp_sgd.accountant import epsilon, event, renyi_curve
from reticent.training.dp_sgd.charged import (
    APPROXIMATE,
    CHARGED_ORDERS,
    RENYI,
    bounded_size,
    costs,
    digests,
    train_charged,
)
from reticent.training.dp_sgd.keystream import KeyStream
from reticent.training.dp_sgd.sampling import bound_contributions
from reticent.training.dp_sgd.trainer import Plan

pytest.importorskip("dp_accounting")
PLAN = Plan(steps=5, expected_batch=50, chunk=50)


def records() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(200) % 2
    x = torch.randn(200, 4, generator=generator)
    x[:, 0] += 4.0 * y - 2.0
    return x, y


def granted(folder: Path, *, epsilon: float = 4.0) -> Ledger:
    ledger = Ledger.create(folder / "ledger.db")
    cap = Cap(epsilon=epsilon, delta=1e-4)
    ledger.grant("people", digests(*records()), cap=cap)
    return ledger


def bought(ledger: Ledger, key: str, *, epsilon: float = 2.0, dataset: str = "people"):
    x, y = records()
    return train_charged(
        nn.Linear(4, 2),
        x,
        y,
        epsilon=epsilon,
        delta=1e-5,
        ledger=ledger,
        dataset=dataset,
        key=key,
        plan=PLAN,
    )


def spent(ledger: Ledger) -> float:
    (dataset,) = ledger.datasets()
    (balance,) = ledger.balances(dataset.id)
    return balance.epsilon


def test_a_run_is_charged_what_it_claims(tmp_path: Path) -> None:
    ledger = granted(tmp_path)
    made = bought(ledger, "first")
    assert made.trained.epsilon <= 2.0
    assert made.trained.guarantee is not None
    # The charge is epsilon = 2 at delta = 1e-5, read off at the cap's larger delta.
    assert 1.5 < spent(ledger) <= 2.0
    assert ledger.charge(made.charge).state == "committed"


def test_numbers_are_learned_and_paid_for_as_classes_are(tmp_path: Path) -> None:
    """Targets (n,) or (n, k), squared error; the digests are those of the numbers."""
    x, _ = records()
    slope = torch.tensor([0.5, -0.25, 0.0, 0.1])
    ledger = Ledger.create(tmp_path / "ledger.db")
    for name, y in (("one", x @ slope), ("two", torch.stack([x @ slope, x[:, 1]], dim=1))):
        ledger.grant(name, digests(x, y), cap=Cap(epsilon=9.0, delta=1e-4))
        plan = Plan(steps=40, expected_batch=100, learning_rate=0.2)
        made = train_charged(
            nn.Linear(4, y.shape[1] if y.dim() > 1 else 1), x, y, epsilon=8.0, delta=1e-5,
            ledger=ledger, dataset=name, key=name, plan=plan,
        )  # fmt: skip
        with torch.no_grad():
            error = (made.trained.model(x).view(y.shape) - y).square().mean()
        assert float(error) < 0.2 * float(y.var())
        with pytest.raises(EvidenceError, match="got others"):
            train_charged(
                nn.Linear(4, 1), x, y + 1, epsilon=0.1, delta=1e-5, ledger=ledger, dataset=name,
                key="other labels", plan=plan,
            )  # fmt: skip


def test_over_the_cap_nothing_is_trained_or_charged(tmp_path: Path) -> None:
    ledger = granted(tmp_path, epsilon=3.0)
    bought(ledger, "first")
    before = spent(ledger)
    with pytest.raises(BudgetExhaustedError):
        bought(ledger, "second")
    assert spent(ledger) == before


def test_a_key_runs_once(tmp_path: Path) -> None:
    ledger = granted(tmp_path)
    bought(ledger, "only")
    before = spent(ledger)
    with pytest.raises(ConfigError, match="committed"):
        bought(ledger, "only")
    assert spent(ledger) == before


def test_other_records_and_units_are_refused_before_a_charge(tmp_path: Path) -> None:
    ledger = granted(tmp_path)
    x, y = records()
    common = {"epsilon": 1.0, "delta": 1e-5, "ledger": ledger, "plan": PLAN}
    with pytest.raises(EvidenceError, match="got others"):
        train_charged(nn.Linear(4, 2), x + 1, y, dataset="people", key="a", **common)
    with pytest.raises(DataError, match="targets=199"):
        train_charged(nn.Linear(4, 2), x, y[:-1], dataset="people", key="a", **common)
    ledger.grant("users", ["u1", "u2"], cap=Cap(epsilon=1.0, delta=1e-5), unit="user")
    with pytest.raises(ConfigError, match="unit='user'"):
        train_charged(nn.Linear(4, 2), x, y, dataset="users", key="a", **common)
    assert all(not ledger.balances(item.id)[0].epsilon for item in ledger.datasets())


def test_a_file_and_its_loaded_arrays_are_one_data_set(tmp_path: Path) -> None:
    x, y = records()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
    np.savez(tmp_path / "renamed.npz", records=x[order].numpy(), labels=y[order].numpy())
    units = file_digests(tmp_path / "renamed.npz")
    assert sorted(units) == sorted(digests(x, y))


def test_a_run_that_is_killed_stays_charged_and_gives_nothing_out(tmp_path: Path) -> None:
    granted(tmp_path)
    x, y = records()

    def train() -> None:
        train_charged(
            nn.Linear(4, 2), x, y, epsilon=2.0, delta=1e-5, key="killed", plan=PLAN,
            ledger=Ledger.open(tmp_path / "ledger.db"), dataset="people",
            progress=lambda share: killed.die() if share > 0.5 else None,
        )  # fmt: skip

    killed.in_a_child(train)
    ledger = Ledger.open(tmp_path / "ledger.db")
    assert 1.5 < spent(ledger) <= 2.0
    with pytest.raises(ConfigError, match="started"):
        bought(ledger, "killed")
    with pytest.raises(BudgetExhaustedError):
        bought(ledger, "again", epsilon=3.5)


def test_runs_are_charged_their_renyi_curves_which_compose(tmp_path: Path) -> None:
    """Ten runs at epsilon 0.5 fit a cap of 3, as one accountant over all of them agrees."""
    accounting = pytest.importorskip("dp_accounting.rdp")
    ledger = granted(tmp_path, epsilon=3.0)
    (registered,) = ledger.datasets()
    made = bought(ledger, "first", epsilon=0.5)
    assert made.charged_as == RENYI
    mechanism = made.trained.mechanism
    (cost, form), second = costs(renyi_curve(mechanism, CHARGED_ORDERS), 0.5, 1e-5)
    assert (form, second[1]) == (RENYI, APPROXIMATE)
    assert ledger.charge(made.charge).cost == cost
    for number in range(9):
        ledger.reserve(registered.id, cost, key=f"like it, {number}")
    accountant = accounting.RdpAccountant(CHARGED_ORDERS)
    accountant.compose(event(mechanism), 10)
    assert spent(ledger) == pytest.approx(accountant.get_epsilon(1e-4), rel=1e-6)
    # Above the tighter accountant of the whole, below the sum that epsilons would make.
    whole = replace(mechanism, steps=10 * mechanism.steps)
    assert epsilon(whole, 1e-4) <= spent(ledger) < 10 * 0.5 / 2
    # Ten charges as (epsilon, delta) would have passed the cap in both.
    assert not Cap(epsilon=3.0, delta=1e-4).admits(sum([second[0]] * 9, second[0]))


def test_a_run_that_fills_the_cap_is_charged_as_epsilon_and_delta(tmp_path: Path) -> None:
    ledger = granted(tmp_path, epsilon=2.0)
    assert bought(ledger, "all", epsilon=2.0).charged_as == APPROXIMATE
    assert spent(ledger) <= 2.0


@pytest.mark.parametrize("epsilon", [1.0, 2.0])
def test_a_run_that_never_started_goes_on_under_its_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epsilon: float
) -> None:
    """In either form of the charge: below the cap, and at its brim."""
    ledger = granted(tmp_path, epsilon=2.0)
    with monkeypatch.context() as patch:
        patch.setattr(ledger, "start", lambda charge: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            bought(ledger, "interrupted", epsilon=epsilon)
    before = spent(ledger)
    assert before > 0.7 * epsilon
    bought(ledger, "interrupted", epsilon=epsilon)
    assert spent(ledger) == before
    with pytest.raises(ConfigError):
        bought(ledger, "interrupted", epsilon=epsilon)


def test_a_network_without_a_bound_costs_nothing(tmp_path: Path) -> None:
    ledger = granted(tmp_path)
    x, y = records()
    mixing = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    for model in (mixing, mixing.eval()):
        with pytest.raises(UnsupportedError, match="GroupNorm"):
            train_charged(
                model, x, y, epsilon=1.0, delta=1e-5, ledger=ledger, dataset="people", key="a",
                plan=PLAN,
            )  # fmt: skip
    assert spent(ledger) == 0


def test_users_leave_as_many_records_whichever_are_drawn() -> None:
    users = np.repeat(["a", "b", "c"], [1, 5, 2])
    for most in (1, 2, 3, 9):
        kept = bound_contributions(users, most, KeyStream())
        assert len(kept) == bounded_size(users, most)
