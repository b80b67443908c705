"""A meta-classifier that reads weights as sets of neurons, so that their order can't matter.

Ganju et al. 2018, section 4.3: each neuron becomes a vector, a layer the sum of its neurons'
vectors; a neuron of the next layer sees its weights together with the vectors they lead to.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from reticent.attacks.property_inference.signatures import Layer

_WIDTH = 24
_STEPS = 150


class DeepSets(nn.Module):
    """Logits (N, H) of N models' hypotheses from their layers, blind to the neurons' order."""

    def __init__(self, shapes: Sequence[tuple[int, int]], hypotheses: int) -> None:
        super().__init__()
        self.first = _small(shapes[0][1] + 1)
        self.others = nn.ModuleList(_small(_WIDTH + 1) for _ in shapes[1:])
        # The output's neurons are classes: their order means something and is kept.
        width = _WIDTH * (len(shapes) - 1 + shapes[-1][0])
        self.head = nn.Linear(width, hypotheses)

    def forward(self, layers: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """Logits (N, H)."""
        weight, bias = layers[0]
        nodes = self.first(torch.cat([weight, bias[:, :, None]], dim=2))
        sets = []
        for (weight, bias), see in zip(layers[1:], self.others, strict=True):
            sets.append(nodes.mean(dim=1))
            message = torch.bmm(weight, nodes)
            nodes = see(torch.cat([message, bias[:, :, None]], dim=2))
        logits: Tensor = self.head(torch.cat([*sets, nodes.flatten(1)], dim=1))
        return logits


def fit_deep_sets(
    layers: Sequence[Layer],
    truth: NDArray[np.int64],
    *,
    hypotheses: int,
    seed: int,
) -> tuple[DeepSets, tuple[float, ...]]:
    """The trained network, and each layer's scale that it expects weights to be divided by.

    AdamW on all models at once; a fifth of them says at which step to stop.
    """
    scales = tuple(float(weight.std()) or 1.0 for weight, _bias in layers)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed % 2**63)
        net = DeepSets([weight.shape[1:] for weight, _bias in layers], hypotheses)
        inputs, goal = _tensors(layers, scales), torch.from_numpy(truth)
        order = torch.randperm(len(truth))
    cut = max(1, len(truth) // 5)
    held, train = order[:cut], order[cut:]
    optimiser = torch.optim.AdamW(net.parameters(), lr=5e-3, weight_decay=1e-2)
    best, state = np.inf, net.state_dict()
    for _ in range(_STEPS):
        optimiser.zero_grad()
        functional.cross_entropy(net(_rows(inputs, train)), goal[train]).backward()
        optimiser.step()
        with torch.no_grad():
            loss = float(functional.cross_entropy(net(_rows(inputs, held)), goal[held]))
        if loss < best:
            best, state = loss, {k: v.clone() for k, v in net.state_dict().items()}
    net.load_state_dict(state)
    return net.eval(), scales


@torch.no_grad()
def deep_sets_posterior(
    net: DeepSets, scales: tuple[float, ...], layers: Sequence[Layer]
) -> NDArray[np.float64]:
    """Log-posteriors (N, H) under a uniform prior."""
    logits = net(_tensors(layers, scales))
    return np.asarray(functional.log_softmax(logits.double(), dim=1).numpy())


def _small(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, _WIDTH), nn.ReLU(), nn.Linear(_WIDTH, _WIDTH), nn.ReLU())


def _tensors(layers: Sequence[Layer], scales: tuple[float, ...]) -> list[tuple[Tensor, Tensor]]:
    return [
        (torch.from_numpy(weight / scale).float(), torch.from_numpy(bias / scale).float())
        for (weight, bias), scale in zip(layers, scales, strict=True)
    ]


def _rows(layers: Sequence[tuple[Tensor, Tensor]], rows: Tensor) -> list[tuple[Tensor, Tensor]]:
    return [(weight[rows], bias[rows]) for weight, bias in layers]
