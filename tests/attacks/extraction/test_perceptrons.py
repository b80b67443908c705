"""Perceptrons side by side: the written-out gradient and Adam are PyTorch's own."""

from __future__ import annotations

import pytest
import torch

from reticent.attacks.extraction.perceptrons import Adam, Perceptrons, imitation_loss


@pytest.mark.parametrize("scale", [0.0, 0.7])
def test_the_gradient_and_the_steps_are_those_of_autograd_and_adamw(scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    nets = Perceptrons(6, 4, members=3, hidden=5, generator=generator)
    x = torch.randn(20, 2, 3, generator=generator)
    logits = torch.randn(20, 4, generator=generator)
    shares = torch.softmax(logits, dim=1)
    logits = logits - logits.mean(dim=1, keepdim=True)
    slow = [part.clone().requires_grad_() for part in nets.parts]
    optimiser = torch.optim.AdamW(slow, lr=0.01, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 5)
    adam = Adam(nets.flat, rate=0.01, decay=0.1, steps=5)
    for _step in range(4):
        out = x.flatten(1).expand(3, -1, -1)
        for layer in range(3):
            out = out @ slow[2 * layer] + slow[2 * layer + 1]
            out = torch.relu(out) if layer < 2 else out
        assert torch.allclose(out, nets(x), atol=1e-5)
        optimiser.zero_grad()
        imitation_loss(out, shares, logits, scale).sum().backward()
        nets.loss_slope(x, shares, logits, scale)
        for part, slope in zip(slow, nets.slopes, strict=True):
            assert part.grad is not None
            assert torch.allclose(part.grad, slope, atol=1e-6)
        optimiser.step()
        schedule.step()
        adam.step(nets.slope)
    for part, fast in zip(slow, nets.parts, strict=True):
        assert torch.allclose(part, fast, atol=1e-4)
