"""Training many models at once, each on its own rows in its own order.

What comes out is what training them one by one would give: every step of the optimisers used here
is taken element by element, so one optimiser on stacked parameters moves each model as its own
would.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from reticent.attacks.shadow.recipe import TrainingRecipe
from reticent.attacks.shadow.stack import Stack, stack
from reticent.errors import ConfigError, DataError
from reticent.random import seeded

Architecture = nn.Module | Callable[[], nn.Module]
"""An untrained network, or a function that makes one with its own initial values."""

_INITIAL, _ORDER, _LAYERS = 3, 4, 5
_ROWS = 512


def fresh(architecture: Architecture, *, seed: int, number: int) -> nn.Module:
    """Model `number` before training, with initial values of its own.

    Of a network, each layer with trainable parameters is reset by its `reset_parameters`; frozen
    parameters and buffers such as scaling constants stay. Raises `ConfigError` for a layer that
    can't be reset: then give a function that makes the network.
    """
    with _torch_seed(seed, _INITIAL, number + 1):
        if not isinstance(architecture, nn.Module):
            made = architecture()
            if not isinstance(made, nn.Module):
                raise ConfigError(
                    f"Expected a function that makes a network, got one that makes {type(made)}."
                )
            return made.train()
        made = copy.deepcopy(architecture).train()
        for name, part in made.named_modules():
            if not any(p.requires_grad for p in part.parameters(recurse=False)):
                continue
            reset = getattr(part, "reset_parameters", getattr(part, "_reset_parameters", None))
            if reset is None:
                raise ConfigError(
                    f"Expected reset_parameters in the layer {name!r} ({type(part).__name__}), got "
                    "none: shadow models would start from the target's own weights. Give it one, "
                    "or pass a function that makes the untrained network."
                )
            reset()
        return made


def train_stack(
    architecture: Architecture,
    recipe: TrainingRecipe,
    x: Tensor,
    y: Tensor,
    *,
    rows: NDArray[np.int64],
    held_out: NDArray[np.int64],
    seed: int,
    first: int = 0,
) -> Stack:
    """Models `first`, `first` + 1, ... trained on their `rows` (models, size), in evaluation mode.

    x is (n, ...), y (n,) classes; `held_out` (models, records) chooses the epoch where the recipe
    keeps the best. Raises `DataError` when a model diverges.
    """
    numbers = range(first, first + len(rows))
    models = [fresh(architecture, seed=seed, number=number) for number in numbers]
    with _torch_seed(seed, _LAYERS, first + 1):
        made = stack(models, x[:4])
        made.train(True)
        orders = [seeded(seed, _ORDER, number + 1) for number in numbers]
        optimiser = _optimiser(made.parameters, recipe)
        best = np.full(len(rows), np.inf)
        kept: list[dict[str, Tensor]] = [{} for _ in rows]
        for epoch in range(recipe.epochs):
            for group in optimiser.param_groups:
                group["lr"] = rate(recipe, epoch)
            for batch in _batches(rows, recipe.batch_size, orders):
                _step(made, optimiser, x, y, batch)
            if recipe.keep == "best":
                losses = _losses(made, x, y, held_out)
                for index in np.flatnonzero(losses < best).tolist():
                    best[index] = losses[index]
                    kept[index] = {n: v.clone() for n, v in made.state(index).items()}
                made.train(True)
    if recipe.keep == "best":
        _restore(made, kept)
    made.train(False)
    _check_finite(made, first)
    return made


def rate(recipe: TrainingRecipe, epoch: int) -> float:
    """The learning rate in `epoch` (from 0); a cosine is at 0 only after the last."""
    if recipe.schedule == "constant":
        return recipe.learning_rate
    return recipe.learning_rate * (1 + math.cos(math.pi * epoch / recipe.epochs)) / 2


@torch.no_grad()
def log_probabilities(made: Stack, x: Tensor) -> NDArray[np.float32]:
    """Answers (models, n, C) in nats of all models to the same records, in evaluation mode.

    The softmax is taken in float64: differences of logits survive where a probability is 1.
    """
    made.train(False)
    parts = []
    for part in torch.split(x, _ROWS):
        logits = two_columns(made(part.expand(made.count, *part.shape)))
        parts.append(functional.log_softmax(logits.double(), dim=-1).float())
    return np.asarray(torch.cat(parts, dim=1).numpy())


def two_columns(logits: Tensor) -> Tensor:
    """Logits (..., C); one column is the second of two classes, the first being 0."""
    if logits.shape[-1] > 1:
        return logits
    return torch.cat([torch.zeros_like(logits), logits], dim=-1)


def _step(
    made: Stack, optimiser: torch.optim.Optimizer, x: Tensor, y: Tensor, batch: Tensor
) -> None:
    """One step of each model on its own batch; the losses' sum has each model's own gradient."""
    logits = two_columns(made(_records(x, batch)))
    loss = (
        functional.cross_entropy(logits.flatten(0, 1), y[batch.flatten()], reduction="sum")
        / batch.shape[1]
    )
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()


@torch.no_grad()
def _losses(made: Stack, x: Tensor, y: Tensor, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Each model's mean loss (models,) on its own `rows`, in evaluation mode."""
    made.train(False)
    total = torch.zeros(made.count, dtype=torch.float64)
    for batch in torch.split(torch.from_numpy(rows), _ROWS, dim=1):
        logits = two_columns(made(_records(x, batch)))
        losses = functional.cross_entropy(
            logits.flatten(0, 1), y[batch.flatten()], reduction="none"
        )
        total += losses.view(made.count, -1).double().sum(dim=1)
    return np.asarray(total.numpy() / rows.shape[1])


def _records(x: Tensor, batch: Tensor) -> Tensor:
    return x.index_select(0, batch.flatten()).view(*batch.shape, *x.shape[1:])


def _batches(
    rows: NDArray[np.int64], size: int, orders: list[np.random.Generator]
) -> Iterator[Tensor]:
    """One epoch of batches (models, B), shuffled per model; a last batch of one is dropped."""
    shuffled = torch.from_numpy(
        np.stack([order.permutation(own) for order, own in zip(orders, rows, strict=True)])
    )
    for batch in torch.split(shuffled, size, dim=1):
        if batch.shape[1] > 1 or rows.shape[1] == 1:
            yield batch


def _optimiser(parameters: list[nn.Parameter], recipe: TrainingRecipe) -> torch.optim.Optimizer:
    if not parameters:
        raise ConfigError("Expected trainable parameters in the architecture, got none.")
    options: dict[str, Any] = {
        "lr": recipe.learning_rate,
        "weight_decay": recipe.weight_decay,
        "fused": True,
    }
    if recipe.optimiser == "sgd":
        return torch.optim.SGD(parameters, momentum=recipe.momentum, **options)
    kind = torch.optim.Adam if recipe.optimiser == "adam" else torch.optim.AdamW
    return kind(parameters, **options)


@torch.no_grad()
def _restore(made: Stack, kept: list[dict[str, Tensor]]) -> None:
    for index, state in enumerate(kept):
        now = made.state(index)
        for name, value in state.items():
            now[name].copy_(value)


def _check_finite(made: Stack, first: int) -> None:
    for index in range(made.count):
        if not all(bool(torch.isfinite(value).all()) for value in made.state(index).values()):
            raise DataError(
                f"Expected finite weights after training, got NaN or infinity in shadow model "
                f"{first + index}. Lower learning_rate in the recipe, as the target must have."
            )


@contextmanager
def _torch_seed(seed: int, *stream: int) -> Iterator[None]:
    """PyTorch's own generator, on which layers draw, seeded inside and as before outside."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(seeded(seed, *stream).integers(2**62)))
        yield
