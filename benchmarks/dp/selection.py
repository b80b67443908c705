"""What choosing a learning rate privately costs: digits, a linear classifier, epsilon 3.

Five rates, four apart from one another. Beside `train_selected`, which pays for the choice, stand
single runs at each rate: their mean is choosing blindly, their best is a choice that somebody else
made for free. Secure noise, delta 1e-5, per record; test records choose nothing.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rows import Row, row
from torch import Tensor, nn

from reticent.data import load
from reticent.privacy.ledger import Cap, Ledger
from reticent.training.dp_sgd.charged import digests
from reticent.training.dp_sgd.selected import Candidate, NoisyAccuracy, train_selected
from reticent.training.dp_sgd.selection import Runs
from reticent.training.dp_sgd.trainer import Plan, default_losses, train_dp

EPSILON, DELTA, TRAIN = 3.0, 1e-5, 1437
RATES = (0.03, 0.12, 0.5, 2.0, 8.0)
RUNS = {"geometric": Runs(mean=10, shape=1.0), "logarithmic": Runs(mean=10, shape=0.0)}


def rows(*, quick: bool = False) -> Iterator[Row]:
    """Mean accuracy over random splits: ten, or two."""
    task = load("digits", public="digit")
    x, y = torch.from_numpy(task.x).flatten(1), torch.from_numpy(task.public).long()
    splits = 2 if quick else 10
    said: dict[str, Any] = {"unit": "share", "n": splits * (len(x) - TRAIN), "higher": True}
    single = np.array([[_single(x, y, split, rate) for rate in RATES] for split in range(splits)])
    blind, best = float(single.mean()), float(single.mean(axis=0).max())
    case = f"selection/digits/epsilon {EPSILON:g}"
    for rate, found in zip(RATES, single.mean(axis=0), strict=True):
        yield row(case, f"one run, rate {rate:g}", float(found), None, "none", **said)
    for name, runs in RUNS.items():
        found = float(np.mean([_selected(x, y, split, runs) for split in range(splits)]))
        yield row(case, f"selected, {name}", found, blind, "a rate at random", **said)
        yield row(case, f"selected, {name}", found, best, "the best rate, for free", **said)


def _plan(rate: float) -> Plan:
    return Plan(steps=100, expected_batch=256, learning_rate=rate, averaging=0.9)


def _split(x: Tensor, split: int) -> tuple[Tensor, Tensor]:
    order = torch.from_numpy(np.random.default_rng(split).permutation(len(x)))
    return order[:TRAIN], order[TRAIN:]


def _start(x: Tensor) -> nn.Linear:
    made = nn.Linear(x.shape[1], 10)
    nn.init.zeros_(made.weight)
    nn.init.zeros_(made.bias)
    return made


def _single(x: Tensor, y: Tensor, split: int, rate: float) -> float:
    train, test = _split(x, split)
    made = train_dp(
        _start(x),
        x[train],
        y[train],
        losses=default_losses,
        epsilon=EPSILON,
        delta=DELTA,
        plan=_plan(rate),
    )
    return _accuracy(made.model, x[test], y[test])


def _selected(x: Tensor, y: Tensor, split: int, runs: Runs) -> float:
    train, test = _split(x, split)
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger.create(Path(folder) / "budget.db")
        cap = Cap(epsilon=EPSILON + 1, delta=4 * DELTA)
        ledger.grant("digits", digests(x[train], y[train]), cap=cap)
        made = train_selected(
            _start(x),
            x[train],
            y[train],
            candidates=[Candidate(plan=_plan(rate)) for rate in RATES],
            score=NoisyAccuracy(noise=20.0),
            runs=runs,
            epsilon=EPSILON,
            delta=DELTA,
            ledger=ledger,
            dataset="digits",
            key="search",
        )
        ledger.close()
    return _accuracy(made.model, x[test], y[test])


def _accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    with torch.no_grad():
        return float((model(x).argmax(1) == y).float().mean())
