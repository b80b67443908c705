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

from reticent.attacks.shadow.choice import stack
from reticent.attacks.shadow.masks import held_out_rows, rows_of
from reticent.attacks.shadow.private import poisson_batch, private_stack, set_private_gradients
from reticent.attacks.shadow.recipe import TrainingRecipe
from reticent.attacks.shadow.stack import Stack, two_columns
from reticent.attacks.spec import Labelled
from reticent.errors import ConfigError, DataError
from reticent.random import seeded

Architecture = nn.Module | Callable[[], nn.Module]
"""An untrained network, or a function that makes one with its own initial values."""

_INITIAL, _ORDER, _LAYERS = 3, 4, 5
_FEWEST_ROWS = 64
# Measured on two cores with 0.5 MB of second-level cache each; flat within a factor of two.
_MOST_MODELS = 64
_MOST_WEIGHTS = 800_000
_MOST_NUMBERS = 6_000_000
_MOST_INPUTS = 200_000


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
        if recipe.clip_norm is None:
            made = stack(models, x[:4], records=min(recipe.batch_size, rows.shape[1]))
        else:
            made = private_stack(models, x[:4])
        made.train(True)
        orders = [seeded(seed, _ORDER, number + 1) for number in numbers]
        gradients = _gradients if recipe.clip_norm is None else _private_gradients
        optimiser = _optimiser(made.parameters, recipe)
        best = _Best(len(rows))
        for epoch in range(recipe.epochs):
            for group in optimiser.param_groups:
                group["lr"] = rate(recipe, epoch)
            for _ in gradients(made, recipe, x, y, rows, orders):
                optimiser.step()
            if recipe.keep == "best":
                best.note(made, _losses(made, x, y, held_out))
                made.train(True)
    best.restore(made)
    made.train(False)
    _check_finite(made, first)
    return made


def train_models(
    architecture: Architecture,
    recipe: TrainingRecipe,
    data: Labelled,
    member: NDArray[np.bool_],
    *,
    seed: int,
) -> Iterator[nn.Module]:
    """The models themselves, one per row of `member` (N, n), in evaluation mode.

    For attacks that read weights. A chunk is in memory at a time: drop what you have read.
    """
    rows = rows_of(member)
    held_out = held_out_rows(member, size=recipe.held_out, seed=seed)
    x, y = torch.from_numpy(np.ascontiguousarray(data.x)), torch.from_numpy(data.y)
    size = chunk_size(architecture, recipe, x[:2], seed=seed)
    for start in range(0, len(rows), size):
        made = train_stack(
            architecture,
            recipe,
            x,
            y,
            rows=rows[start : start + size],
            held_out=held_out[start : start + size],
            seed=seed,
            first=start,
        )
        yield from made.models()


def chunk_size(
    architecture: Architecture, recipe: TrainingRecipe, few: Tensor, *, seed: int
) -> int:
    """How many models are trained at once: few enough for the cache, and so for memory.

    Counted are a model's weights, and the numbers that one batch of records such as `few` leaves
    between its layers.
    """
    model = fresh(architecture, seed=seed, number=0).eval()
    between: list[int] = []
    leaves = [part for part in model.modules() if next(part.children(), None) is None]
    hooks = [
        part.register_forward_hook(
            lambda _part, _given, out: between.append(out.numel() if torch.is_tensor(out) else 0)
        )
        for part in leaves
    ]
    with torch.no_grad():
        model(few)
    for hook in hooks:
        hook.remove()
    weights = max(1, sum(p.numel() for p in model.parameters()))
    numbers = max(1, sum(between) // len(few) * min(recipe.batch_size, recipe.size))
    return max(1, min(_MOST_MODELS, _MOST_WEIGHTS // weights, _MOST_NUMBERS // numbers))


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
    copies = 1 if made.shares_records else made.count
    for part in torch.split(x, _rows_at_once(copies, x)):
        logits = two_columns(made.answers(part))
        logits = logits.double()
        # As log_softmax, which takes several times as long where the last axis is short.
        logits = logits - logits.amax(dim=-1, keepdim=True)
        parts.append(logits.sub_(logits.exp().sum(dim=-1, keepdim=True).log_()).float())
    return np.asarray(torch.cat(parts, dim=1).numpy())


def _gradients(
    made: Stack,
    recipe: TrainingRecipe,
    x: Tensor,
    y: Tensor,
    rows: NDArray[np.int64],
    orders: list[np.random.Generator],
) -> Iterator[None]:
    """One epoch of gradients, each model's of its own batch: a sum of losses keeps them apart."""
    for batch in _batches(rows, recipe.batch_size, orders):
        made.set_gradients(_records(x, batch), y[batch])
        yield


def _private_gradients(
    made: Stack,
    recipe: TrainingRecipe,
    x: Tensor,
    y: Tensor,
    rows: NDArray[np.int64],
    orders: list[np.random.Generator],
) -> Iterator[None]:
    """One epoch of clipped and noised gradients of Poisson batches."""
    rate = min(1.0, recipe.batch_size / rows.shape[1])
    for _ in range(-(-rows.shape[1] // recipe.batch_size)):
        batch, weights = poisson_batch(rows, rate, orders)
        set_private_gradients(made, recipe, _records(x, batch), y[batch], weights, orders)
        yield


@torch.no_grad()
def _losses(made: Stack, x: Tensor, y: Tensor, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Each model's mean loss (models,) on its own `rows`, in evaluation mode."""
    made.train(False)
    total = torch.zeros(made.count, dtype=torch.float64)
    for batch in torch.split(torch.from_numpy(rows), _rows_at_once(made.count, x), dim=1):
        logits = two_columns(made(_records(x, batch)))
        losses = functional.cross_entropy(
            logits.flatten(0, 1), y[batch.flatten()], reduction="none"
        )
        total += losses.view(made.count, -1).double().sum(dim=1)
    return np.asarray(total.numpy() / rows.shape[1])


def _rows_at_once(copies: int, x: Tensor) -> int:
    """How many records, each copied so often, are answered at once: few enough for the cache."""
    return max(_FEWEST_ROWS, _MOST_INPUTS // (copies * x[0].numel()))


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


class _Best:
    """Each model's state at the epoch with its least loss on held-out rows."""

    def __init__(self, count: int) -> None:
        self._losses = np.full(count, np.inf)
        self._states: dict[int, dict[str, Tensor]] = {}

    def note(self, made: Stack, losses: NDArray[np.float64]) -> None:
        """Keep the models whose losses (N,) are the least so far."""
        for model in np.flatnonzero(losses < self._losses).tolist():
            self._losses[model] = losses[model]
            self._states[model] = {n: v.clone() for n, v in made.state(model).items()}

    @torch.no_grad()
    def restore(self, made: Stack) -> None:
        """Put what was kept back into the stack."""
        for model, state in self._states.items():
            now = made.state(model)
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
