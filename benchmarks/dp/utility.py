"""What privacy costs in accuracy: scattering features and a linear classifier by DP-SGD.

Every figure is that of `train_dp` with secure noise at the epsilon stated (PLD, delta 1e-5, per
record). Features need no training; steps, rates and clipping norms were chosen on MNIST's test
part, a public set that none of these records are in (its 8 x 8 version for the small digits), and
are the same at every epsilon. "public start" begins at weights that were fitted to that set.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rows import Row, row
from torch import Tensor, nn
from torch.nn import functional

from reticent.data import load
from reticent.training.dp_sgd.clipping import Flat
from reticent.training.dp_sgd.trainer import Plan, default_losses, train_dp
from reticent.training.scattering import Scattering, group_normalised

DELTA = 1e-5
EPSILONS = (1.0, 3.0, 8.0)
GOALS = {
    "mnist5k": {1.0: 0.935, 3.0: 0.95, 8.0: 0.96},
    "digits": {1.0: 0.90, 3.0: 0.95},
}
_BIAS = 0.1


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How one set is trained on: fixed beforehand."""

    scales: int
    groups: int
    train: int
    steps: int = 120
    learning_rate: float = 30.0
    clip_norm: float = 0.1


SETTINGS = {
    "mnist5k": Setting(scales=2, groups=27, train=4000),
    "digits": Setting(scales=1, groups=9, train=1437, learning_rate=10.0),
}


def rows(*, quick: bool = False) -> Iterator[Row]:
    """Three splits of each set, at each epsilon, from nothing and from a public start."""
    for name, setting in SETTINGS.items():
        task = load(name, public="digit")
        x = features(torch.from_numpy(task.x), setting)
        y = torch.from_numpy(task.public).long()
        starts: list[tuple[str, nn.Linear]] = [("from nothing", _linear(x))]
        if os.environ.get("RETICENT_DATA"):
            starts.append(("public start", _public(name, setting)))
        splits = range(1 if quick else 3)
        plain = [_plain(x, y, setting, split) for split in splits]
        yield row(
            f"utility/{name}/no privacy",
            "accuracy, mean of splits",
            float(np.mean(plain)),
            None,
            "none",
            unit="share",
            n=len(x) - setting.train,
        )
        for label, start in starts:
            for epsilon in EPSILONS:
                found = [_private(start, x, y, setting, epsilon, split) for split in splits]
                case = f"utility/{name}/{label}/epsilon {epsilon:g}"
                goal = GOALS[name].get(epsilon)
                said: Any = {"unit": "share", "n": len(x) - setting.train, "higher": True}
                yield row(
                    case, "accuracy, mean of splits", float(np.mean(found)), goal, "goal", **said
                )
                yield row(case, "accuracy, worst split", float(min(found)), goal, "goal", **said)


def features(images: Tensor, setting: Setting) -> Tensor:
    """(n, 1, rows, columns) to unit rows (n, d) with a constant for the bias."""
    made = group_normalised(Scattering(scales=setting.scales)(images), setting.groups).flatten(1)
    made = made / made.norm(dim=1, keepdim=True)
    return torch.cat([made, torch.full((len(made), 1), _BIAS)], dim=1)


def _linear(x: Tensor) -> nn.Linear:
    made = nn.Linear(x.shape[1], 10, bias=False)
    nn.init.zeros_(made.weight)
    return made


def _split(n: int, train: int, split: int) -> tuple[Tensor, Tensor]:
    order = torch.from_numpy(np.random.default_rng(split).permutation(n))
    return order[:train], order[train:]


def _private(
    start: nn.Linear, x: Tensor, y: Tensor, setting: Setting, epsilon: float, split: int
) -> float:
    train, test = _split(len(x), setting.train, split)
    made = train_dp(
        start,
        x[train],
        y[train],
        losses=default_losses,
        epsilon=epsilon,
        delta=DELTA,
        plan=Plan(
            steps=setting.steps,
            expected_batch=len(train),
            chunk=len(train),
            learning_rate=setting.learning_rate,
            momentum=0.9,
            averaging=0.98,
        ),
        clipping=Flat(clip_norm=setting.clip_norm),
    )
    return _accuracy(made.model, x[test], y[test])


def _plain(x: Tensor, y: Tensor, setting: Setting, split: int) -> float:
    train, test = _split(len(x), setting.train, split)
    return _accuracy(_fitted(x[train], y[train]), x[test], y[test])


def _public(name: str, setting: Setting) -> nn.Linear:
    task = load("mnist_t10k", public="digit")
    images = torch.from_numpy(task.x)
    if name == "digits":
        images = functional.interpolate(images, size=(8, 8), mode="area")
        images = images / images.amax(dim=(1, 2, 3), keepdim=True)
    return _fitted(features(images, setting), torch.from_numpy(task.public).long())


def _fitted(x: Tensor, y: Tensor) -> nn.Linear:
    """Softmax regression without privacy."""
    model = _linear(x)
    optimiser = torch.optim.LBFGS(model.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        made = functional.cross_entropy(model(x), y) + 1e-5 * model.weight.square().sum()
        made.backward()
        return made

    optimiser.step(loss)
    return model


def _accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    with torch.no_grad():
        return float((model(x).argmax(dim=1) == y).float().mean())
