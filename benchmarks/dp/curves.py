"""Accuracy by epsilon on a census table, phone sensors and a text model, beside non-private twins.

DP-SGD by `train_dp` with secure noise, delta 1e-5, per record; private least squares on the table
too. Plans are round numbers fixed beforehand and not tuned: the curves show a shape, not the best
that could be had. RETICENT_DATA names the folder of the sets.
"""

from __future__ import annotations

import copy
import gzip
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rows import Row, row
from torch import Tensor, nn
from torch.nn import functional

from reticent.data import load
from reticent.training.dp_sgd.trainer import Plan, default_losses, train_dp
from reticent.training.least_squares import private_least_squares

DELTA = 1e-5
_TWIN_STEPS = 6000
EPSILONS = (0.5, 1.0, 3.0, 8.0)


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One set: records, split, network and plan."""

    name: str
    x: Tensor
    y: Tensor
    train: int
    network: Callable[[], nn.Module]
    plan: Plan


def rows(*, quick: bool = False) -> Iterator[Row]:
    """Each set at each epsilon, three splits."""
    for make in (_adult, _phone, _text):
        curve = make()
        for split in range(1 if quick else 3):
            yield from _split(curve, split, EPSILONS[1:3] if quick else EPSILONS)


def _split(curve: Curve, split: int, epsilons: tuple[float, ...]) -> Iterator[Row]:
    order = torch.from_numpy(np.random.default_rng(split).permutation(len(curve.x)))
    train, test = order[: curve.train], order[curve.train :]
    x, y, tx, ty = curve.x[train], curve.y[train], curve.x[test], curve.y[test]
    torch.manual_seed(split)
    start = curve.network()
    case, n = f"curves/{curve.name}/split {split}", len(test)
    said: dict[str, Any] = {"unit": "share", "n": n, "higher": True}
    twin = _plain(start, x, y)
    base = _accuracy(twin, tx, ty)
    yield row(case, "accuracy without privacy", base, None, "none", **said)
    for epsilon in epsilons:
        made = train_dp(
            start, x, y, losses=default_losses, epsilon=epsilon, delta=DELTA, plan=curve.plan
        )
        found = _accuracy(made.model, tx, ty)
        yield row(case, f"DP-SGD, epsilon {epsilon:g}", found, base, "without privacy", **said)
        if curve.name == "income":
            right = _least_squares(x, y, tx, ty, epsilon)
            label = f"least squares, epsilon {epsilon:g}"
            yield row(case, label, right, base, "without privacy", **said)


def _adult() -> Curve:
    task = load("adult")
    x = torch.from_numpy(task.x)
    x = torch.cat([x, torch.ones(len(x), 1)], dim=1)
    # Rows of norm 1: a record's own length, and so no release.
    x = x / x.norm(dim=1, keepdim=True)
    return Curve(
        name="income",
        x=x,
        y=torch.from_numpy(task.public).long(),
        train=36_000,
        network=lambda: nn.Linear(x.shape[1], 2),
        plan=Plan(steps=300, expected_batch=2048, chunk=2048, learning_rate=4.0, averaging=0.95),
    )


def _phone() -> Curve:
    task = load("har_phone_watch")
    x = torch.from_numpy(task.x)
    centred = x - x.mean(dim=2, keepdim=True)
    x = torch.cat([x.mean(dim=2), centred.abs().mean(dim=2), centred.std(dim=2)], dim=1)
    x = x / x.norm(dim=1, keepdim=True)
    train = len(x) * 4 // 5
    return Curve(
        name="phone activity",
        x=x,
        y=torch.from_numpy(task.public).long(),
        train=train,
        network=lambda: nn.Linear(x.shape[1], int(task.public.max()) + 1),
        plan=Plan(steps=120, expected_batch=train, chunk=train, learning_rate=8.0, averaging=0.95),
    )


def _text() -> Curve:
    """The next character of Shakespeare from the 8 before it: a small text model."""
    path = Path(os.environ["RETICENT_DATA"]) / "tinyshakespeare" / "input.txt.gz"
    text = gzip.decompress(path.read_bytes()).decode()[:240_000]
    letters = sorted(set(text))
    codes = torch.tensor([letters.index(letter) for letter in text])
    windows = codes.unfold(0, 9, 9)

    class Model(nn.Module):
        """Embedding, one hidden layer, letters."""

        def __init__(self) -> None:
            super().__init__()
            self.letters = nn.Embedding(len(letters), 16)
            self.body = nn.Sequential(
                nn.Flatten(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, len(letters))
            )

        def forward(self, x: Tensor) -> Tensor:
            """Letters (n, 8) to scores (n, letters)."""
            made: Tensor = self.body(self.letters(x))
            return made

    return Curve(
        name="next letter",
        x=windows[:, :8],
        y=windows[:, 8],
        train=len(windows) * 9 // 10,
        network=Model,
        plan=Plan(steps=600, expected_batch=1024, chunk=1024, learning_rate=0.5, averaging=0.98),
    )


def _plain(start: nn.Module, x: Tensor, y: Tensor) -> nn.Module:
    model = copy.deepcopy(start)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(0)
    for _ in range(max(15, _TWIN_STEPS * 256 // len(x))):
        for rows_ in torch.randperm(len(x), generator=generator).split(256):
            optimiser.zero_grad()
            functional.cross_entropy(model(x[rows_]), y[rows_]).backward()
            optimiser.step()
    return model.eval()


def _least_squares(x: Tensor, y: Tensor, tx: Tensor, ty: Tensor, epsilon: float) -> float:
    signs = 2.0 * y - 1.0
    made = private_least_squares(x, signs, epsilon=epsilon, delta=DELTA)
    return float(((tx @ made.weights > 0).long() == ty).float().mean())


def _accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    with torch.no_grad():
        return float((model(x).argmax(dim=1) == y).float().mean())
