"""Perceptrons side by side, with their gradient written out: no graph is built for a step.

Shapes: M members, n records, d features, H hidden units, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

SMOOTH = 0.02
"""Weight of the cross-entropy beside the squared error of logits, where answers are graded."""


class Perceptrons:
    """`members` perceptrons with two hidden layers of ReLUs, all parameters in one vector."""

    def __init__(
        self, width: int, classes: int, *, members: int, hidden: int, generator: torch.Generator
    ) -> None:
        sizes = (width, hidden, hidden, classes)
        shapes = [
            shape
            for fan_in, fan_out in pairwise(sizes)
            for shape in ((members, fan_in, fan_out), (members, 1, fan_out))
        ]
        total = sum(math.prod(shape) for shape in shapes)
        self.flat, self.slope = torch.zeros(total), torch.zeros(total)
        self.members, self.classes = members, classes
        self.parts = _views(self.flat, shapes)
        self.slopes = _views(self.slope, shapes)
        for weight in self.parts[::2]:
            weight.normal_(0.0, math.sqrt(2.0 / weight.shape[1]), generator=generator)

    def __call__(self, x: Tensor) -> Tensor:
        """Logits (M, n, C) of records (n, ...)."""
        return self._layers(x.flatten(1))[-1]

    def loss_slope(self, x: Tensor, shares: Tensor, logits: Tensor, scale: float) -> Tensor:
        """The gradient of `imitation_loss`, summed over members, by all parameters."""
        inputs, first, second, found = self._layers(x.flatten(1))
        n = len(x)
        back = torch.softmax(found, dim=2).sub_(shares)
        if scale > 0:
            apart = (found - found.mean(dim=2, keepdim=True)).sub_(logits)
            back.mul_(SMOOTH).add_(apart, alpha=2.0 * scale / self.classes)
        back.div_(n)
        for layer, fed in ((2, second), (1, first), (0, inputs)):
            weight = self.parts[2 * layer]
            torch.bmm(fed.transpose(1, 2), back, out=self.slopes[2 * layer])
            torch.sum(back, dim=1, keepdim=True, out=self.slopes[2 * layer + 1])
            if layer:
                back = torch.bmm(back, weight.transpose(1, 2)).mul_(fed > 0)
        return self.slope

    def _layers(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        inputs = x.expand(self.members, -1, -1)
        w1, b1, w2, b2, w3, b3 = self.parts
        first = torch.baddbmm(b1, inputs, w1).relu_()
        second = torch.baddbmm(b2, first, w2).relu_()
        return inputs, first, second, torch.baddbmm(b3, second, w3)


class Adam:
    """AdamW on one vector (Loshchilov & Hutter 2019), cosine rate from `rate` to 0 in `steps`."""

    def __init__(self, flat: Tensor, *, rate: float, decay: float, steps: int) -> None:
        self.flat, self.rate, self.decay, self.steps = flat, rate, decay, steps
        self.mean, self.square = torch.zeros_like(flat), torch.zeros_like(flat)
        self.done = 0

    def step(self, slope: Tensor) -> None:
        """One step down `slope`."""
        rate = self.rate * 0.5 * (1 + math.cos(math.pi * self.done / self.steps))
        self.done += 1
        self.mean.lerp_(slope, 0.1)
        self.square.mul_(0.999).addcmul_(slope, slope, value=0.001)
        spread = self.square.sqrt().div_(math.sqrt(1 - 0.999**self.done)).add_(1e-8)
        self.flat.mul_(1 - rate * self.decay)
        self.flat.addcdiv_(self.mean, spread, value=-rate / (1 - 0.9**self.done))


def imitation_loss(found: Tensor, shares: Tensor, logits: Tensor, scale: float) -> Tensor:
    """Mean loss (M,) of logits (M, n, C) against answers: `shares` (n, C) and centred `logits`.

    The cross-entropy where `scale` is 0. Else that is weighted by `SMOOTH` beside the squared
    error of centred logits times `scale`: far from a boundary only they say how a target thinks.
    """
    entropy = -(torch.log_softmax(found, dim=2) * shares).sum(dim=2).mean(dim=1)
    if scale == 0:
        return entropy
    apart = found - found.mean(dim=2, keepdim=True) - logits
    return SMOOTH * entropy + scale * apart.square().mean(dim=(1, 2))


def _views(flat: Tensor, shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
    parts, start = [], 0
    for shape in shapes:
        size = math.prod(shape)
        parts.append(flat[start : start + size].view(shape))
        start += size
    return parts
