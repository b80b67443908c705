"""Private Newton steps: the maximum of the likelihood, the sensitivity, the cost."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from reticent.errors import ConfigError, DataError
from reticent.training import newton
from reticent.training.dp_sgd.accountant import Mechanism, epsilon
from reticent.training.newton import private_newton

pytest.importorskip("dp_accounting")


def records(n: int = 5000) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 4, generator=generator)
    x = x / x.norm(dim=1, keepdim=True)
    slope = torch.tensor([4.0, -3.0, 2.0, 0.0])
    return x, torch.bernoulli(torch.sigmoid(x @ slope), generator=generator)


class Silent:
    """Adds nothing, and keeps what it was asked for."""

    is_secure = False

    def __init__(self) -> None:
        self.asked: list[tuple[torch.Tensor, float, float]] = []

    def add_to(self, flat: torch.Tensor, *, sigma: float, clip_norm: float) -> None:
        self.asked.append((flat.clone(), sigma, clip_norm))


def test_without_noise_it_is_the_regularised_maximum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(newton, "SecureNoise", Silent)
    x, y = records()
    # The eigenvalues of thousands of records lie far above their floor.
    made = private_newton(x, y, epsilon=8.0, delta=1e-5, steps=12)
    want = LogisticRegression(C=1.0, fit_intercept=False, tol=1e-10, max_iter=1000).fit(x, y)
    np.testing.assert_allclose(made.weights.numpy(), want.coef_[0], atol=2e-3)


def test_no_record_moves_a_release_by_more_than_is_paid_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    silent = Silent()
    monkeypatch.setattr(newton, "SecureNoise", lambda: silent)
    x, y = records(n=40)
    for extra in (100 * torch.ones(1, 4), torch.full((1, 4), -0.5)):
        silent.asked.clear()
        longer = torch.cat([x, extra]), torch.cat([y, torch.ones(1)])
        for given in ((x, y), longer):
            private_newton(*given, epsilon=1.0, delta=1e-5, steps=1)
        for (old, _, norm), (new, sigma, _) in zip(silent.asked[:2], silent.asked[2:], strict=True):
            assert 0 < float((old - new).norm()) <= norm
            assert sigma > norm


def test_the_cost_is_that_of_all_releases() -> None:
    x, y = records()
    made = private_newton(x, y, epsilon=1.0, delta=1e-5, steps=3)
    noise = made.mechanism.noise_multiplier
    one = epsilon(Mechanism(noise_multiplier=noise / 6**0.5, steps=1), 1e-5)
    assert made.epsilon == pytest.approx(one, rel=1e-3)
    assert made.guarantee is not None
    assert made.guarantee.strength.epsilon <= 1.0


def test_it_learns_from_thousands_and_stays_finite_on_few() -> None:
    x, y = records()
    base = LogisticRegression(fit_intercept=False).fit(x, y).score(x, y)
    made = private_newton(x, y, epsilon=2.0, delta=1e-5, seed=0)
    assert float(((x @ made.weights > 0) == (y > 0)).float().mean()) > base - 0.03
    assert made.guarantee is None
    for seed in range(10):
        few = private_newton(x[:20], y[:20], epsilon=0.1, delta=1e-5, seed=seed)
        assert torch.isfinite(few.weights).all()


def test_bad_labels_and_constants_are_refused() -> None:
    x, y = records(n=20)
    with pytest.raises(DataError, match="label 0 or 1"):
        private_newton(x, y + 1, epsilon=1.0, delta=1e-5)
    with pytest.raises(DataError, match="finite"):
        private_newton(x / 0, y, epsilon=1.0, delta=1e-5)
    with pytest.raises(ConfigError, match="steps"):
        private_newton(x, y, epsilon=1.0, delta=1e-5, steps=0)
