"""Ordinary training, without protection: the model that hardening starts from."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from reticent.data.task import Kind, Records
from reticent.errors import DataError

Progress = Callable[[float], None]

# A small set needs as many steps as a large one: its epochs are lengthened, up to `MOST_BATCHES`
# each, until there are `LEAST_STEPS`.
LEAST_STEPS = 640
MOST_BATCHES = 80
_AVERAGING = 0.99


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How long and how fast to train (Adam, cosine schedule)."""

    epochs: int = 12
    learning_rate: float = 1e-3
    batch_size: int = 64
    weight_decay: float = 1e-4


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A trained network in evaluation mode, and its loss on the validation part."""

    model: nn.Module
    validation_loss: float


def fit(
    model: nn.Module,
    train: Records,
    validation: Records,
    *,
    kind: Kind,
    plan: Plan | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Trained:
    """Train a copy of `model`; the epoch with the lowest validation loss is kept."""
    plan = plan or Plan()
    generator = torch.Generator().manual_seed(seed)
    model = copy.deepcopy(model)
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=plan.learning_rate, weight_decay=plan.weight_decay
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, plan.epochs)
    x, y = torch.from_numpy(train.x), targets(train.public, kind)
    held_x, held_y = torch.from_numpy(validation.x), targets(validation.public, kind)
    best, best_state = np.inf, copy.deepcopy(model.state_dict())
    for epoch in range(plan.epochs):
        model.train()
        for rows in batches(len(x), plan.batch_size, generator):
            optimiser.zero_grad()
            task_loss(model(x[rows]), y[rows], kind).backward()
            optimiser.step()
        schedule.step()
        held = float(task_loss(forward(model, held_x), held_y, kind))
        if held < best:
            best, best_state = held, copy.deepcopy(model.state_dict())
        if progress is not None:
            progress((epoch + 1) / plan.epochs)
    if not np.isfinite(best):
        raise DataError("Training diverged: no epoch had a finite validation loss. Lower the rate.")
    model.load_state_dict(best_state)
    return Trained(model=model.eval(), validation_loss=best)


def descend(
    network: nn.Module,
    groups: Sequence[dict[str, Any]],
    *,
    loss: Callable[[Tensor], Tensor],
    count: int,
    epochs: int,
    batch_size: int,
    generator: torch.Generator,
    frozen: Sequence[nn.Module] = (),
    progress: Progress | None = None,
) -> None:
    """Minimise `loss(rows)` over batches of `count` rows; leaves averaged weights in `network`.

    AdamW with one warm-up and one cosine fall of the rate (`groups` as the optimiser takes them,
    each with its "lr"). What is kept is the exponential average of the weights (Polyak and
    Juditsky 1992), not the best epoch: no record outside `count` has a say, so held-out records
    stay held out. Modules in `frozen` keep their BatchNorm statistics. Raises `DataError` when
    the loss stops being finite.
    """
    per_epoch = steps_per_epoch(count, batch_size, epochs)
    steps = epochs * per_epoch
    optimiser = torch.optim.AdamW(list(groups), weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser,
        [group["lr"] for group in optimiser.param_groups],
        total_steps=steps,
        pct_start=0.1,
        cycle_momentum=False,
    )
    average = {name: value.clone() for name, value in network.state_dict().items()}
    network.train()
    for module in frozen:
        module.eval()
    rows = _endless(count, batch_size, generator)
    for step in range(steps):
        optimiser.zero_grad()
        value = loss(next(rows))
        value.backward()
        optimiser.step()
        schedule.step()
        _move(average, network.state_dict(), 1 - min(_AVERAGING, (step + 1) / (step + 10)))
        if (step + 1) % per_epoch == 0:
            if not bool(torch.isfinite(value)):
                raise DataError(
                    f"Training diverged at step={step + 1}: the loss is {float(value.detach())}. "
                    "Lower the learning rate."
                )
            if progress is not None:
                progress((step + 1) / steps)
    network.load_state_dict(average)
    network.eval()


def steps_per_epoch(count: int, batch_size: int, epochs: int) -> int:
    """How many batches `descend` counts as one of `epochs` epochs of `count` rows."""
    wanted = min(-(-LEAST_STEPS // epochs), MOST_BATCHES)
    return max(wanted, -(-count // batch_size))


def _endless(count: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    while True:
        yield from batches(count, max(size, 2), generator)


@torch.no_grad()
def _move(average: dict[str, Tensor], now: dict[str, Tensor], weight: float) -> None:
    for name, value in now.items():
        if value.dtype.is_floating_point:
            average[name].lerp_(value, weight)
        else:
            average[name].copy_(value)


def task_loss(outputs: Tensor, target: Tensor, kind: Kind) -> Tensor:
    """Cross-entropy for classes, mean squared error for regression and anomaly scores."""
    if kind is Kind.REGRESSION:
        return functional.mse_loss(outputs.squeeze(-1), target)
    return functional.cross_entropy(outputs, target)


def targets(public: NDArray[np.generic], kind: Kind) -> Tensor:
    """Public labels as the tensor that `task_loss` takes."""
    dtype = torch.float32 if kind is Kind.REGRESSION else torch.int64
    return torch.as_tensor(np.asarray(public), dtype=dtype)


def batches(count: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """One epoch of shuffled row indices; a last batch of one row is dropped for BatchNorm."""
    order = torch.randperm(count, generator=generator)
    for start in range(0, count, size):
        rows = order[start : start + size]
        if len(rows) > 1 or count == 1:
            yield rows


def forward(module: nn.Module, x: Tensor, *, batch_size: int = 1024) -> Tensor:
    """`module(x)` in evaluation mode without gradients, in batches; leaves the mode as it was."""
    was_training = module.training
    module.eval()
    with torch.no_grad():
        out = torch.cat([module(part) for part in torch.split(x, batch_size)])
    module.train(was_training)
    return out
