"""Noisy answers on ciphertexts: noise of the right size, paid for, and outrun by no query."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from reticent.errors import BudgetExhaustedError, ConfigError, DataError
from reticent.inference.ckks import noisy
from reticent.inference.ckks.client import EncryptedClient
from reticent.inference.ckks.noisy import AnswerNoise, NoisyServer, drawn, plan_head
from reticent.inference.ckks.primitives import OPERATIONS, Primitives
from reticent.privacy.ledger import ORDERS, Cap, Ledger
from reticent.training.pate.noise import STEPS
from reticent.training.stable import StableHead

pytest.importorskip("seal")
FLAT = Primitives(table=dict.fromkeys(OPERATIONS, (1.0,) * 8))
CLASSES, FEATURES = 10, 12
HEAD = StableHead(
    weights=np.random.default_rng(0).normal(size=(CLASSES, FEATURES + 1)),
    sensitivity=0.02,
    row_norm=1.0,
)
X = np.random.default_rng(1).uniform(-0.5, 0.5, FEATURES)


def exact(x: np.ndarray) -> np.ndarray:
    return HEAD.weights @ np.append(x, 1.0)


def granted(folder: Path, *, epsilon: float, unit: str = "record") -> Ledger:
    ledger = Ledger.create(folder / "ledger.db")
    names = [f"r{number}" for number in range(50)]
    ledger.grant("patients", names, cap=Cap(epsilon=epsilon, delta=1e-6), unit=unit)
    return ledger


def parties(ledger: Ledger, noise: AnswerNoise) -> tuple[EncryptedClient, NoisyServer]:
    layout = plan_head(classes=CLASSES, features=FEATURES, bound=1.0, primitives=FLAT)
    client = EncryptedClient(dataclasses.replace(layout.for_client(), places=16))
    server = NoisyServer(
        HEAD, layout, client.public_keys, noise=noise, ledger=ledger, dataset="patients"
    )
    return client, server


def states(ledger: Ledger) -> list[str]:
    """The last state of each charge, in their order."""
    last = {entry["charge"]: entry["kind"] for entry in ledger.history() if "charge" in entry}
    return list(last.values())


def has_scale(off: np.ndarray, sigma: float) -> bool:
    """Two-sided chi-square test of the variance, which errs once in a million."""
    tail = stats.chi2.cdf(float((off**2).sum()) / sigma**2, off.size)
    return bool(5e-7 < tail < 1 - 5e-7)


def test_the_draws_are_gaussian_of_the_stated_size_and_no_other() -> None:
    noise = AnswerNoise(multiplier=5.0)
    off = np.concatenate([(drawn(HEAD, noise) - HEAD.weights).ravel() for _ in range(50)])
    sigma = noise.sigma(HEAD)
    assert sigma == pytest.approx(0.1)
    assert stats.kstest(off / sigma, "norm").pvalue > 1e-6
    assert has_scale(off, sigma)
    for wrong in (0.9, 1.1):
        assert not has_scale(off * wrong, sigma)
    # Fine enough: no two of 6,500 draws fall on one point of the lattice.
    assert len(np.unique(np.rint(off / (sigma / STEPS)))) == len(off)


def test_the_charge_is_the_gaussian_mechanisms() -> None:
    cost = AnswerNoise(multiplier=5.0).cost(HEAD)
    two = cost.curve[ORDERS.index(2.0)]
    assert two is not None
    assert two / 1e12 == pytest.approx(2 / (2 * 25), rel=1e-6)
    assert two / 1e12 >= 2 / (2 * 25)  # never below
    assert cost.delta == 0


def test_answers_are_noisy_fresh_and_charged_each(tmp_path: Path) -> None:
    ledger = granted(tmp_path, epsilon=50.0)
    noise = AnswerNoise(multiplier=5.0)
    client, server = parties(ledger, noise)
    off = np.array([client.decrypt(server.answer(client.encrypt(X))) - exact(X) for _ in range(12)])
    scale = noise.sigma(HEAD) * np.linalg.norm(np.append(X, 1.0))
    assert has_scale(off, scale)
    assert not has_scale(off, scale / 2)
    assert not has_scale(off, scale * 2)
    assert np.abs(off[0] - off[1]).max() > scale / 10
    assert states(ledger) == ["committed"] * 12
    assert ledger.balances("patients")[0].epsilon > 0


def test_one_draw_answers_as_often_as_it_says(tmp_path: Path) -> None:
    ledger = granted(tmp_path, epsilon=50.0)
    client, server = parties(ledger, AnswerNoise(multiplier=5.0, answers=3))
    made = [client.decrypt(server.answer(client.encrypt(X))) for _ in range(4)]
    assert np.abs(made[0] - made[2]).max() < 0.01 < np.abs(made[0] - made[3]).max()
    assert states(ledger) == ["committed"] * 2


def test_a_spent_budget_is_refused_before_a_weight_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = granted(tmp_path, epsilon=2.0)
    client, server = parties(ledger, AnswerNoise(multiplier=5.0))
    with pytest.raises(BudgetExhaustedError) as refused:
        [server.answer(client.encrypt(X)) for _ in range(100)]
    assert refused.value.exit_code == 4
    paid = len(states(ledger))
    assert 1 <= paid < 100

    def read(*_: object) -> None:
        raise AssertionError("weights were read")

    monkeypatch.setattr(noisy, "drawn", read)
    with pytest.raises(BudgetExhaustedError):
        server.answer(client.encrypt(X))
    assert len(states(ledger)) == paid


def test_a_query_beyond_the_bound_meets_noise_as_much_larger(tmp_path: Path) -> None:
    """The defect that noise of fixed size has: a thousandfold query read weights exactly."""
    ledger = granted(tmp_path, epsilon=100.0)
    client, server = parties(ledger, AnswerNoise(multiplier=5.0))
    client._plan = dataclasses.replace(client._plan, bound=1e6)  # a client of its own making
    large = 1000 * X
    off = np.array(
        [client.decrypt(server.answer(client.encrypt(large))) - exact(large) for _ in range(8)]
    )
    assert has_scale(off, 0.1 * float(np.linalg.norm(np.append(large, 1.0))))


def test_a_crash_after_the_draw_leaves_it_charged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = granted(tmp_path, epsilon=50.0)
    client, server = parties(ledger, AnswerNoise(multiplier=5.0))

    def crash(*_: object) -> None:
        raise RuntimeError("power failed")

    monkeypatch.setattr(noisy, "EncryptedServer", crash)
    with pytest.raises(RuntimeError):
        server.answer(client.encrypt(X))
    assert states(ledger) == ["started"]
    assert ledger.balances("patients")[0].epsilon > 0


def test_what_does_not_fit_is_refused_and_bad_messages_cost_nothing(tmp_path: Path) -> None:
    ledger = granted(tmp_path, epsilon=50.0)
    client, server = parties(ledger, AnswerNoise(multiplier=5.0))
    for bad in (b"", client.encrypt(X)[:-1]):
        with pytest.raises(DataError):
            server.answer(bad)
    assert states(ledger) == []
    (tmp_path / "users").mkdir()
    users = granted(tmp_path / "users", epsilon=1.0, unit="user")
    with pytest.raises(ConfigError, match="unit='record'"):
        parties(users, AnswerNoise(multiplier=5.0))
    other = plan_head(classes=2, features=FEATURES, bound=1.0, primitives=FLAT)
    with pytest.raises(ConfigError, match="plan_head"):
        NoisyServer(
            HEAD,
            other,
            EncryptedClient(other.for_client()).public_keys,
            noise=AnswerNoise(multiplier=5.0),
            ledger=ledger,
            dataset="patients",
        )
    for wrong in (0.0, float("nan")):
        with pytest.raises(ConfigError):
            AnswerNoise(multiplier=wrong)


def test_the_claim_names_the_cap(tmp_path: Path) -> None:
    _, server = parties(granted(tmp_path, epsilon=3.0), AnswerNoise(multiplier=5.0))
    (claim,) = server.guarantees(Cap(epsilon=3.0, delta=1e-6))
    assert (claim.strength.epsilon, claim.strength.unit) == (3.0, "record")
