"""The slow way: one model, one loop, PyTorch's own optimiser and schedule."""

from __future__ import annotations

import copy

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from reticent.attacks.shadow.recipe import TrainingRecipe
from reticent.random import seeded

ORDER_STREAM = 4


def train_alone(
    model: nn.Module,
    recipe: TrainingRecipe,
    x: torch.Tensor,
    y: torch.Tensor,
    rows: NDArray[np.int64],
    held_out: NDArray[np.int64],
    *,
    seed: int,
    number: int,
) -> nn.Module:
    model = copy.deepcopy(model).train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    options = {"lr": recipe.learning_rate, "weight_decay": recipe.weight_decay}
    if recipe.optimiser == "sgd":
        optimiser = torch.optim.SGD(parameters, momentum=recipe.momentum, **options)
    else:
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[recipe.optimiser]
        optimiser = kind(parameters, **options)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, recipe.epochs)
    order = seeded(seed, ORDER_STREAM, number + 1)
    best, kept = np.inf, copy.deepcopy(model.state_dict())
    for _ in range(recipe.epochs):
        model.train()
        shuffled = torch.from_numpy(order.permutation(rows))
        for batch in torch.split(shuffled, recipe.batch_size):
            if len(batch) == 1 and len(rows) > 1:
                continue
            optimiser.zero_grad()
            loss(model(x[batch]), y[batch]).backward()
            optimiser.step()
        if recipe.schedule == "cosine":
            schedule.step()
        if recipe.keep == "best":
            with torch.no_grad():
                held = float(loss(model.eval()(x[held_out]), y[held_out]))
            if held < best:
                best, kept = held, copy.deepcopy(model.state_dict())
    if recipe.keep == "best":
        model.load_state_dict(kept)
    return model.eval()


def loss(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    if logits.shape[1] == 1:
        return functional.binary_cross_entropy_with_logits(logits[:, 0], y.float())
    return functional.cross_entropy(logits, y)
