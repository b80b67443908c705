"""A committee of small networks, trained side by side to imitate a target's answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from reticent.attacks.extraction.copy import Batch, LogProbabilities, gauge
from reticent.attacks.extraction.perceptrons import Adam, Perceptrons, imitation_loss

Make = Callable[[], nn.Module]
"""A fresh untrained network: records (n, ...) to logits (n, C)."""

BATCH = 64
_HIDDEN = 64
_RATE = 2e-3
_DECAY = 1e-3
_ROWS = 2048


class Committee:
    """Copies that vote: the mean of their logits.

    By default perceptrons on records in the pool's scale; networks from `make` get the records as
    they are.
    """

    def __init__(
        self, pool: Batch, classes: int, *, members: int, make: Make | None, seed: int
    ) -> None:
        self.shape = pool.shape[1:]
        self.generator = torch.Generator().manual_seed(seed)
        self.made: nn.ModuleList | None = None
        if make is None:
            self.centre, self.scale = gauge(pool)
            self.own = Perceptrons(
                math.prod(self.shape),
                classes,
                members=members,
                hidden=_HIDDEN,
                generator=self.generator,
            )
        else:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                self.made = nn.ModuleList([make() for _ in range(members)])

    def train(
        self, x: Batch, answers: LogProbabilities, *, steps: int, graded: bool = True
    ) -> None:
        """Fits the answers (n, C), log-probabilities in nats, by `steps` steps of Adam.

        The loss is `imitation_loss`, with squared errors in units of the answers' own variance
        where they are `graded`.
        """
        fed = self._present(x)
        shares = torch.from_numpy(np.exp(answers)).float()
        logits = torch.from_numpy(answers - answers.mean(axis=1, keepdims=True)).float()
        scale = 1.0 / max(float(logits.var()), 1e-12) if graded else 0.0
        if self.made is not None:
            self._train_made(fed, shares, logits, scale, steps)
            return
        adam = Adam(self.own.flat, rate=_RATE, decay=_DECAY, steps=steps)
        for rows in self._batches(len(fed), steps):
            adam.step(self.own.loss_slope(fed[rows], shares[rows], logits[rows], scale))

    @torch.no_grad()
    def votes(self, x: Batch) -> LogProbabilities:
        """Log-probabilities (members, n, C) of records (n, ...)."""
        parts = [
            functional.log_softmax(self._logits(part).double(), dim=2)
            for part in self._present(x).split(_ROWS)
        ]
        return np.asarray(torch.cat(parts, dim=1).numpy())

    def predict(self, x: Batch) -> LogProbabilities:
        """Log-probabilities (n, C): the members' logits averaged."""
        mean = torch.from_numpy(self.votes(x).mean(axis=0))
        return np.asarray(functional.log_softmax(mean, dim=1).numpy())

    def _train_made(
        self, fed: Tensor, shares: Tensor, logits: Tensor, scale: float, steps: int
    ) -> None:
        assert self.made is not None
        optimiser = torch.optim.AdamW(self.made.parameters(), lr=_RATE, weight_decay=_DECAY)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        self.made.train()
        for rows in self._batches(len(fed), steps):
            if len(rows) < 2:
                # Batch normalisation has no variance of one record.
                continue
            optimiser.zero_grad(set_to_none=True)
            found = self._logits(fed[rows])
            imitation_loss(found, shares[rows], logits[rows], scale).sum().backward()
            optimiser.step()
            schedule.step()
        self.made.eval()

    def _batches(self, count: int, steps: int) -> Iterator[Tensor]:
        done = 0
        while done < steps:
            order = torch.randperm(count, generator=self.generator)
            for rows in order.split(BATCH)[: steps - done]:
                yield rows
                done += 1

    def _logits(self, fed: Tensor) -> Tensor:
        if self.made is None:
            return self.own(fed)
        return torch.stack([_per_class(part(fed)) for part in self.made])

    def _present(self, x: Batch) -> Tensor:
        if self.made is not None:
            return torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))
        flat = (x.reshape(len(x), -1) - self.centre) / self.scale
        return torch.from_numpy(flat.astype(np.float32))


def _per_class(logits: Tensor) -> Tensor:
    """One column per class where a network has a single logit for two classes."""
    if logits.shape[1] > 1:
        return logits
    return torch.cat([torch.zeros_like(logits), logits], dim=1)
