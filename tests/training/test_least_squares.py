"""Private least squares: the closed form, the noise, the sensitivity, what it costs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from reticent.errors import ConfigError, DataError
from reticent.training import least_squares
from reticent.training.dp_sgd.accountant import Mechanism, epsilon
from reticent.training.least_squares import private_least_squares

pytest.importorskip("dp_accounting")


def records(n: int = 4000, size: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, size, generator=generator)
    x = x / x.norm(dim=1, keepdim=True)
    slope = torch.tensor([0.5, -0.3, 0.2, 0.1])[:size]
    return x, x @ slope + 0.05 * torch.randn(n, generator=generator), slope


class Silent:
    """Adds nothing, and keeps what it was asked for."""

    is_secure = False

    def __init__(self) -> None:
        self.asked: list[tuple[torch.Tensor, float, float]] = []

    def add_to(self, flat: torch.Tensor, *, sigma: float, clip_norm: float) -> None:
        self.asked.append((flat.clone(), sigma, clip_norm))


def silenced(monkeypatch: pytest.MonkeyPatch) -> Silent:
    silent = Silent()
    monkeypatch.setattr(least_squares, "SecureNoise", lambda: silent)
    monkeypatch.setattr(least_squares, "_ridge", lambda *given: 0.0)
    return silent


def test_without_noise_it_is_least_squares(monkeypatch: pytest.MonkeyPatch) -> None:
    silenced(monkeypatch)
    x, y, _ = records()
    made = private_least_squares(x, y, epsilon=1.0, delta=1e-5)
    want = np.linalg.lstsq(x.double().numpy(), y.double().numpy(), rcond=None)[0]
    np.testing.assert_allclose(made.weights.numpy(), want, atol=1e-4)


def test_no_record_moves_a_release_by_more_than_is_paid_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    silent = silenced(monkeypatch)
    x, y, _ = records(n=50)
    # A record far beyond the bounds, and one that is the longest allowed.
    for extra in (100 * torch.ones(1, 4), torch.full((1, 4), 0.5)):
        silent.asked.clear()
        longer = torch.cat([x, extra]), torch.cat([y, torch.tensor([50.0])])
        for given in ((x, y), longer):
            private_least_squares(*given, epsilon=1.0, delta=1e-5)
        before, after = silent.asked[:3], silent.asked[3:]
        for (old, _, norm), (new, sigma, _) in zip(before, after, strict=True):
            moved = float((old - new).norm())
            assert 0 < moved <= norm
            assert sigma > norm  # epsilon 1 takes noise of several sensitivities


def test_the_cost_is_that_of_three_gaussian_mechanisms() -> None:
    x, y, _ = records()
    made = private_least_squares(x, y, epsilon=1.0, delta=1e-5)
    noise = made.mechanism.noise_multiplier
    one = epsilon(Mechanism(noise_multiplier=noise / 3**0.5, steps=1), 1e-5)
    assert made.epsilon == pytest.approx(one, rel=1e-3)
    assert made.guarantee is not None
    assert made.guarantee.strength.epsilon <= 1.0


@pytest.mark.parametrize(("budget", "near"), [(1.0, 0.1), (8.0, 0.02)])
def test_many_records_are_learnt_from(budget: float, near: float) -> None:
    x, y, slope = records(n=20_000)
    made = private_least_squares(x, y, epsilon=budget, delta=1e-5, seed=1)
    assert float((made.weights - slope).norm()) < near
    assert made.guarantee is None


def test_few_records_are_regularised_and_stay_finite() -> None:
    x, y, _ = records(n=20)
    for seed in range(20):
        made = private_least_squares(x, y, epsilon=0.1, delta=1e-5, seed=seed)
        assert made.ridge > 0
        assert torch.isfinite(made.weights).all()
    one_hot = torch.nn.functional.one_hot(torch.arange(20) % 3).float()
    assert private_least_squares(x, one_hot, epsilon=1.0, delta=1e-5).weights.shape == (4, 3)


def test_bad_records_and_bounds_are_refused() -> None:
    x, y, _ = records(n=20)
    with pytest.raises(DataError, match="finite"):
        private_least_squares(x * float("nan"), y, epsilon=1.0, delta=1e-5)
    with pytest.raises(DataError, match="target"):
        private_least_squares(x, y[:-1], epsilon=1.0, delta=1e-5)
    with pytest.raises(ConfigError, match="bound"):
        private_least_squares(x, y, epsilon=1.0, delta=1e-5, row_norm=0.0)
