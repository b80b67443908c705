"""A one-class network: everything normal is pulled to one center, the distance is the score.

Deep SVDD (Ruff et al. 2018). The network ends in two scores, normal and anomaly, whose difference
changes sign at the threshold, so that it is cut, hardened and served like a classifier.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_SLOPE = 0.1


class Distance(nn.Module):
    """Squared distance to a center, as scores (normal, anomaly) that are equal at the threshold."""

    center: Tensor
    threshold: Tensor
    scale: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(size))
        self.register_buffer("threshold", torch.tensor(1.0))
        self.register_buffer("scale", torch.tensor(1.0))

    def squared(self, features: Tensor) -> Tensor:
        """The anomaly score (batch,) of features (batch, d)."""
        return (features - self.center).square().sum(dim=1)

    def forward(self, features: Tensor) -> Tensor:
        """Shapes: (batch, d) to (batch, 2)."""
        beyond = (self.squared(features) - self.threshold) / self.scale
        return torch.stack([-beyond, beyond], dim=1) / 2


def one_class_network(
    shape: tuple[int, ...],
    *,
    standardise: nn.Module | None = None,
    widths: Any = (64, 32),
    size: int = 16,
) -> nn.Sequential:
    """A network from records of `shape` to (normal, anomaly), its children the places to cut.

    No biases and no bounded activations: with either, a network can send every input to the
    center (Ruff et al. 2018, Propositions 2 and 3). Series and images pass through convolutions.
    """
    layers = nn.Sequential()
    layers.add_module("input", standardise or nn.Identity())
    axes = len(shape) - 1
    channels, sides = shape[0], list(shape[1:])
    for index, width in enumerate(widths):
        name = f"block{index + 1}"
        layers.add_module(name, _block(channels, int(width), axes))
        channels, sides = int(width), [-(-side // 2) for side in sides]
    flat = channels * int(np.prod(sides, dtype=np.int64))
    layers.add_module(
        "features", nn.Sequential(nn.Flatten(), nn.Linear(flat, int(size), bias=False))
    )
    layers.add_module("distance", Distance(int(size)))
    return layers


def _block(channels: int, width: int, axes: int) -> nn.Module:
    if axes == 0:
        return nn.Sequential(nn.Linear(channels, width, bias=False), nn.LeakyReLU(_SLOPE))
    conv, norm, pool = (
        (nn.Conv1d, nn.BatchNorm1d, nn.AvgPool1d)
        if axes == 1
        else (nn.Conv2d, nn.BatchNorm2d, nn.AvgPool2d)
    )
    return nn.Sequential(
        conv(channels, width, 5 if axes == 1 else 3, padding="same", bias=False),
        norm(width, affine=False),
        nn.LeakyReLU(_SLOPE),
        pool(2, ceil_mode=True),
    )
