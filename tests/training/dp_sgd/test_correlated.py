"""Noise that is correlated over steps: its law, its sensitivity, and training with it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from reticent.errors import ConfigError, DataError, UnsupportedError
from reticent.training.dp_sgd.accountant import Mechanism, epsilon
from reticent.training.dp_sgd.clipping import AdaptiveQuantile, Flat
from reticent.training.dp_sgd.correlated import (
    RELATION,
    CorrelatedSums,
    OrderedPlan,
    coefficients,
    sensitivity,
    train_ordered,
)
from reticent.training.dp_sgd.noise import SeededNoise

pytest.importorskip("dp_accounting")


def toeplitz(band: int, steps: int) -> np.ndarray:
    """C, (steps, steps)."""
    made = np.zeros((steps, steps))
    for k, value in enumerate(coefficients(band)):
        made += value * np.eye(steps, k=-k)
    return made


def noises(band: int, steps: int, draws: int) -> np.ndarray:
    """(steps, draws): what is added to sums of zero."""
    sums = CorrelatedSums(SeededNoise(0), band=band, passes=1, sigma=1.0, clip_norm=1.0)
    return np.stack([sums.add(torch.zeros(draws)).numpy() for _ in range(steps)])


def test_the_factor_is_the_square_root_of_prefix_sums() -> None:
    whole = toeplitz(12, 12)
    np.testing.assert_allclose(whole @ whole, np.tri(12), atol=1e-12)


@pytest.mark.parametrize(("band", "passes"), [(1, 1), (4, 1), (4, 3), (7, 2)])
def test_the_sensitivity_is_that_of_the_worst_record(band: int, passes: int) -> None:
    """A record of norm 1 at steps `band` or more apart, against the matrix itself."""
    factor = toeplitz(band, 40)
    worst = 0.0
    for gap in (band, band + 3):
        place = np.zeros(40)
        place[[gap * index for index in range(passes)]] = 1
        worst = max(worst, float(np.linalg.norm(factor @ place)))
    assert worst == pytest.approx(sensitivity(band, passes), rel=1e-12)


def test_the_noise_has_the_covariance_of_the_inverse_factor() -> None:
    band, steps, draws = 4, 10, 200_000
    found = np.cov(noises(band, steps, draws))
    inverse = np.linalg.inv(toeplitz(band, steps)) * sensitivity(band, 1)
    want = inverse @ inverse.T
    error = np.sqrt((np.outer(np.diag(want), np.diag(want)) + want**2) / draws)
    assert (np.abs(found - want) < 6 * error).all()


def test_prefix_sums_are_less_noisy_than_with_independent_noise() -> None:
    """What training sees is the sum of all steps: the point of it all."""
    steps = 64
    spread = {band: noises(band, steps, 2000).cumsum(axis=0)[-1].std() for band in (1, 16, 64)}
    assert spread[64] < spread[16] < 0.6 * spread[1]


def test_sums_pass_through_exactly_without_noise() -> None:
    sums = CorrelatedSums(SeededNoise(0), band=5, passes=1, sigma=0.0, clip_norm=1.0)
    given = torch.randn(20, 3, generator=torch.Generator().manual_seed(1))
    made = torch.stack([sums.add(row) for row in given])
    torch.testing.assert_close(made, given, atol=1e-5, rtol=1e-5)


def records() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(0, 2, (960,), generator=generator)
    x = torch.randn(960, 6, generator=generator) / 2
    x[:, 0] += 2.0 * y - 1.0
    return x, y


def test_training_in_order_learns_and_claims_what_it_costs() -> None:
    x, y = records()
    plan = OrderedPlan(batch=32, passes=2, band=8)
    made = train_ordered(nn.Linear(6, 2), x, y, epsilon=2.0, delta=1e-5, plan=plan)
    assert made.guarantee is not None
    strength = made.guarantee.strength
    assert strength.neighboring_relation == RELATION
    # The whole run is one Gaussian mechanism.
    noise = made.mechanism.noise_multiplier
    one = epsilon(Mechanism(noise_multiplier=noise, steps=1), 1e-5)
    assert strength.epsilon == pytest.approx(one)
    assert 1.9 < strength.epsilon <= 2.0
    assert float((made.model(x).argmax(dim=1) == y).float().mean()) > 0.9


def test_a_seeded_run_repeats_and_claims_nothing() -> None:
    x, y = records()
    given = {"epsilon": 2.0, "delta": 1e-5, "plan": OrderedPlan(batch=96, band=4), "seed": 3}
    torch.manual_seed(0)
    start = nn.Linear(6, 2)
    first = train_ordered(start, x, y, **given)
    second = train_ordered(start, x, y, **given)
    assert torch.equal(first.model.weight, second.model.weight)
    assert first.guarantee is None


def test_what_would_break_the_guarantee_is_refused() -> None:
    x, y = records()
    given = {"epsilon": 2.0, "delta": 1e-5}
    with pytest.raises(ConfigError, match="overlap"):
        train_ordered(nn.Linear(6, 2), x, y, plan=OrderedPlan(batch=480, passes=2, band=3), **given)
    adaptive = AdaptiveQuantile(vote_sigma=5.0, expected_batch=32.0)
    with pytest.raises(ConfigError, match="adapts"):
        train_ordered(nn.Linear(6, 2), x, y, clipping=adaptive, **given)
    with pytest.raises(DataError, match="targets=959"):
        train_ordered(nn.Linear(6, 2), x, y[:-1], **given)
    mixing = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    with pytest.raises(UnsupportedError):
        train_ordered(mixing, x, y, clipping=Flat(clip_norm=1.0), **given)
    with pytest.raises(ConfigError, match="band"):
        OrderedPlan(band=0)
