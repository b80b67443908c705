"""No example moves the sum by more than the clip norm, whatever its gradient."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reticent.errors import ConfigError
from reticent.training.dp_sgd.clipping import AdaptiveQuantile, Automatic, Clipping, Flat, PerLayer

NORMS = st.lists(st.floats(0, 2.0**60, width=32), min_size=1, max_size=8)


@settings(max_examples=200, deadline=None)
@given(norms=NORMS, clip_norm=st.floats(1e-6, 1e6), layers=st.integers(1, 5))
@pytest.mark.parametrize("kind", [Flat, PerLayer, Automatic])
def test_contributions_stay_below_the_clip_norm(
    kind: type[Flat | PerLayer | Automatic], norms: list[float], clip_norm: float, layers: int
) -> None:
    rule: Clipping = kind(clip_norm=clip_norm)
    squares = torch.tensor([norms] * (layers if rule.per_layer else 1)).square()
    factors = rule.factors(squares)
    assert torch.isfinite(factors).all()
    assert (factors >= 0).all()
    # 1e-5 is what the norms may be off by.
    moved = squares.double().sqrt() * (1 + 1e-5) * factors.double()
    assert (moved.norm(dim=0) <= clip_norm).all()


def test_small_gradients_are_left_alone_by_flat_clipping() -> None:
    factors = Flat(clip_norm=2.0).factors(torch.tensor([[0.0, 1.0, 16.0]]))
    assert factors[0, :2].tolist() == [1.0, 1.0]
    assert math.isclose(float(factors[0, 2]), 0.5, rel_tol=2e-4)


def test_layers_share_the_bound_in_squares() -> None:
    """Clipping each of L layers to C itself would move the sum by C sqrt(L)."""
    squares = torch.full((9, 1), 100.0)
    moved = (squares.sqrt() * PerLayer(clip_norm=1.0).factors(squares)).norm()
    assert 0.999 < float(moved) <= 1.0
    careless = (squares.sqrt() * Flat(clip_norm=1.0).factors(squares)).norm()
    assert float(careless) > 2.9


def test_the_adaptive_bound_finds_the_quantile() -> None:
    rule = AdaptiveQuantile(
        start=0.1, quantile=0.75, rate=0.2, vote_sigma=1e-9, expected_batch=1000
    )
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        norms = torch.rand(1, 1000, generator=generator) * 8
        rule.update(rule.votes(norms.square(), torch.ones(1000)))
    assert abs(rule.clip_norm - 6.0) < 0.3


def test_votes_are_paid_for() -> None:
    """Two Gaussians, gradients (z_g, sensitivity 1) and votes (sensitivity 1/2), compose to z."""
    rule = AdaptiveQuantile(vote_sigma=10.0, expected_batch=100)
    z = rule.gradient_multiplier(1.1)
    assert z > 1.1
    assert math.isclose(z**-2 + (0.5 / 10.0) ** 2, 1.1**-2)
    with pytest.raises(ConfigError, match="vote_sigma"):
        AdaptiveQuantile(vote_sigma=0.5, expected_batch=100).gradient_multiplier(1.1)


def test_impossible_bounds_are_refused() -> None:
    for bad in (0.0, -1.0, float("nan"), float("inf")):
        for kind in (Flat, PerLayer, Automatic):
            with pytest.raises(ConfigError, match="clip_norm"):
                kind(clip_norm=bad)
