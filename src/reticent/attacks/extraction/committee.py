"""A committee of small networks, trained side by side to imitate a target's answers."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from reticent.attacks.extraction.copy import Batch, LogProbabilities, gauge

Make = Callable[[], nn.Module]
"""A fresh untrained network: records (n, ...) to logits (n, C)."""

BATCH = 64
_SMOOTH = 0.02


class Perceptrons(nn.Module):
    """`members` perceptrons with two hidden layers in one: (n, ...) to logits (members, n, C)."""

    def __init__(
        self, shape: tuple[int, ...], classes: int, *, members: int, hidden: int = 64
    ) -> None:
        super().__init__()
        sizes = (math.prod(shape), hidden, hidden, classes)
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for fan_in, fan_out in pairwise(sizes):
            gain = math.sqrt(2.0 / fan_in)
            self.weights.append(nn.Parameter(gain * torch.randn(members, fan_in, fan_out)))
            self.biases.append(nn.Parameter(torch.zeros(members, 1, fan_out)))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (members, n, C) of records (n, ...)."""
        out = x.flatten(1).expand(len(self.weights[0]), -1, -1)
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            out = torch.baddbmm(bias, out, weight)
            if layer + 1 < len(self.weights):
                out = torch.relu(out)
        return out


class Several(nn.Module):
    """Networks that are given, asked one after the other: (n, ...) to logits (members, n, C)."""

    def __init__(self, parts: list[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (members, n, C) of records (n, ...)."""
        return torch.stack([part(x) for part in self.parts])


class Committee:
    """Copies that vote: the mean of their centred logits, on records in the pool's scale."""

    def __init__(
        self,
        pool: Batch,
        classes: int,
        *,
        members: int,
        make: Make | None,
        seed: int,
    ) -> None:
        centre, scale = gauge(pool)
        # One scale for networks that are given, which know the records' own units.
        self.centre, self.scale = (
            (centre, scale) if make is None else (0.0 * centre, 0.0 * scale + 1)
        )
        self.shape = pool.shape[1:]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.net: nn.Module = (
                Perceptrons(self.shape, classes, members=members)
                if make is None
                else Several([make() for _ in range(members)])
            )
        self.generator = torch.Generator().manual_seed(seed)

    def train(
        self,
        x: Batch,
        answers: LogProbabilities,
        *,
        steps: int,
        rate: float = 2e-3,
        graded: bool = True,
    ) -> None:
        """Fits the answers (n, C), log-probabilities in nats, by `steps` steps of Adam.

        The loss is the cross-entropy, plus the squared error of centred logits where the answers
        are graded: far from a boundary only the latter still says how the target thinks.
        """
        fed = self._present(x)
        shares = torch.from_numpy(np.exp(answers)).float()
        logits = torch.from_numpy(answers - answers.mean(axis=1, keepdims=True)).float()
        spread = float(logits.std()) or 1.0
        optimiser = torch.optim.AdamW(self.net.parameters(), lr=rate, weight_decay=1e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        self.net.train()
        done = 0
        while done < steps:
            order = torch.randperm(len(fed), generator=self.generator)
            for rows in torch.split(order, BATCH)[: steps - done]:
                optimiser.zero_grad(set_to_none=True)
                found = self.net(fed[rows])
                loss = -(functional.log_softmax(found, dim=2) * shares[rows]).sum(dim=2).mean()
                if graded:
                    apart = found - found.mean(dim=2, keepdim=True) - logits[rows]
                    loss = _SMOOTH * loss + (apart / spread).square().mean()
                (loss * len(found)).backward()
                optimiser.step()
                schedule.step()
                done += 1
        self.net.eval()

    @torch.no_grad()
    def votes(self, x: Batch) -> LogProbabilities:
        """Log-probabilities (members, n, C) of records (n, ...)."""
        fed = self._present(x)
        parts = [functional.log_softmax(self.net(part).double(), dim=2) for part in fed.split(2048)]
        return np.asarray(torch.cat(parts, dim=1).numpy())

    def predict(self, x: Batch) -> LogProbabilities:
        """Log-probabilities (n, C): the members' logits averaged."""
        mean = torch.from_numpy(self.votes(x).mean(axis=0))
        return np.asarray(functional.log_softmax(mean, dim=1).numpy())

    def _present(self, x: Batch) -> Tensor:
        flat = (x.reshape(len(x), -1) - self.centre) / self.scale
        return torch.from_numpy(flat.astype(np.float32)).reshape(len(x), *self.shape)
