"""The slow way to per-example gradients: one example at a time, by PyTorch's own autograd."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from reticent.training.dp_sgd.engine import Engine

Loss = Callable[[Any], Tensor]


def squares(outputs: Any) -> Tensor:
    """A loss per example that no symmetry cancels; outputs (B, ...)."""
    flat = outputs.flatten(1)
    weights = torch.linspace(0.5, 1.5, flat.shape[1])
    return (weights * (flat + 0.3 * flat.sin())).sum(1) + flat.square().mean(1)


def slow_gradients(model: nn.Module, inputs: tuple[Tensor, ...], loss: Loss) -> list[Tensor]:
    """Per trainable parameter the gradients, shape (B, *parameter), float64."""
    twin = copy.deepcopy(model).double()
    parameters = [p for p in twin.parameters() if p.requires_grad]
    found: list[list[Tensor]] = [[] for _ in parameters]
    for row in range(len(inputs[0])):
        one = [x[row : row + 1] for x in inputs]
        one = [x.double() if x.is_floating_point() else x for x in one]
        gradients = torch.autograd.grad(loss(twin(*one)).sum(), parameters, allow_unused=True)
        for kept, parameter, gradient in zip(found, parameters, gradients, strict=True):
            kept.append(torch.zeros_like(parameter) if gradient is None else gradient)
    return [torch.stack(kept) for kept in found]


def assert_exact(
    model: nn.Module,
    *inputs: Tensor,
    loss: Loss = squares,
    strategy: str | None = None,
    tolerance: float = 1e-5,
    copies: int = 1,
) -> None:
    """The engine's norms, per-layer norms and clipped sum equal the slow way's.

    Every `copies` rows are one example: the slow way averages their gradients, then takes norms.
    """
    slow = [g.unflatten(0, (-1, copies)).mean(1) for g in slow_gradients(model, inputs, loss)]
    engine = Engine(model)
    if strategy is not None:
        engine.tuner.choose = lambda key, names, trial: (  # type: ignore[method-assign]
            strategy if strategy in names else names[0]
        )
    with engine.recording(len(inputs[0])):
        batch = engine.backward(loss(model(*inputs)), copies=copies)
    norms = batch.squared_norms(engine.groups()).sqrt()[0]
    layers = batch.squared_norms(engine.groups(per_layer=True)).sqrt()
    exact_layers = torch.stack([g.flatten(1).norm(dim=1) for g in slow])
    exact = exact_layers.norm(dim=0)
    torch.testing.assert_close(norms.double(), exact, rtol=tolerance, atol=1e-7)
    largest = exact_layers.max() * tolerance
    torch.testing.assert_close(layers.double(), exact_layers, rtol=tolerance, atol=float(largest))
    factors = torch.rand(len(norms), generator=torch.Generator().manual_seed(1)) / norms
    engine.fill(batch, factors)
    engine.assign()
    for parameter, gradients in zip(engine.parameters, slow, strict=True):
        expected = torch.einsum("b,b...->...", factors.double(), gradients)
        assert parameter.grad is not None
        error = (parameter.grad.double() - expected).abs().max()
        assert error <= tolerance * max(1.0, float(expected.abs().max()))
    engine.detach()
