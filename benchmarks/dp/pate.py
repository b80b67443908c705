"""PATE on 5,000 digits: what few records cost it, beside DP-SGD; teachers stacked or in turn.

3,000 private digits, 1,000 public inputs whose labels nobody uses, 1,000 to test; three splits.
Inputs are histograms of oriented gradients, a public map that learns from no data. Plans were
chosen on 500 of split 0's private records, apart from everything here. The noise is seeded, so the
figures repeat; a seeded run carries no guarantee, and epsilon is that of the same run with secure
noise. delta is 1e-5 everywhere, the unit a record.

    python benchmarks/dp/pate.py [--quick]
"""

from __future__ import annotations

import copy
import json
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parents[1]))

from rows import Row, row

from reticent.data.embedded import mnist5k
from reticent.models.networks import build
from reticent.random import seeded
from reticent.training.dp_sgd import trainer as dp_sgd
from reticent.training.pate import teachers as stack
from reticent.training.pate.accounting import FewTeachersWarning, affordable
from reticent.training.pate.aggregation import Aggregator, ask_all
from reticent.training.pate.mechanisms import ConfidentGNMax, GNMax, Mechanism, Questions
from reticent.training.pate.parts import Parting, units_of
from reticent.training.pate.sanitised import (
    Publication,
    loss_of,
    publish,
    suggested_publication,
)
from reticent.training.pate.student import Plan, train_student
from reticent.training.pate.teachers import TeacherPlan

DELTA = 1e-5
TEACHING = TeacherPlan(steps=100, batch_size=16, learning_rate=0.1)
CASES: dict[str, tuple[int, Questions]] = {
    "40 teachers, GNMax sigma 5, 200 labels": (
        40,
        Questions(mechanism=GNMax(sigma=5), asked=200, answered=200),
    ),
    "100 teachers, GNMax sigma 12, 200 labels": (
        100,
        Questions(mechanism=GNMax(sigma=12), asked=200, answered=200),
    ),
    "250 teachers, GNMax sigma 30, 200 labels": (
        250,
        Questions(mechanism=GNMax(sigma=30), asked=200, answered=200),
    ),
    "40 teachers, confident sigma 8, threshold 24, check 12, 1000 asked": (
        40,
        Questions(
            mechanism=ConfidentGNMax(sigma=8, threshold=24, check_sigma=12),
            asked=1000,
            answered=1000,
        ),
    ),
}
AT_THREE: dict[str, tuple[int, Mechanism]] = {
    "40 teachers at epsilon 3": (40, GNMax(sigma=15)),
    "100 teachers at epsilon 3": (100, GNMax(sigma=25)),
    "250 teachers at epsilon 3": (250, GNMax(sigma=40)),
}


def rows(*, quick: bool) -> Iterator[Row]:
    """Accuracy beside DP-SGD at the same epsilon; CPU seconds of the stack."""
    warnings.simplefilter("ignore", FewTeachersWarning)
    task = mnist5k(public="digit")
    x, y = oriented_gradients(task.x[:, 0]), task.public
    splits = 1 if quick else 3
    for name, (teachers, questions) in CASES.items():
        yield from _accuracy(name, teachers, questions, x, y, splits)
    for name, (teachers, mechanism) in AT_THREE.items():
        questions = affordable(mechanism, most=3.0, delta=DELTA, asked=1000)
        full = f"{name}, GNMax sigma {mechanism.sigma}, {questions.answered} labels"
        yield from _accuracy(full, teachers, questions, x, y, splits)
    for teachers in (40,) if quick else (40, 100, 250):
        yield _speed(teachers, task.x, y)


def oriented_gradients(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Histograms of 8 gradient directions in overlapping cells, (n, 288) (Dalal & Triggs 2005)."""
    down, across = np.gradient(images, axis=(1, 2))
    angle = (np.arctan2(down, across) / (2 * np.pi) * 8) % 8
    size = np.hypot(down, across)
    low = np.floor(angle).astype(int) % 8
    planes = np.zeros((len(images), 8, *images.shape[1:]), dtype=np.float32)
    for index in range(8):
        planes[:, index] = size * np.where(low == index, 1 - (angle - low), 0)
        planes[:, index] += size * np.where((low + 1) % 8 == index, angle - low, 0)
    pooled = functional.avg_pool2d(torch.from_numpy(planes), 8, stride=4).flatten(1)
    made: NDArray[np.float32] = functional.normalize(pooled, dim=1).numpy()
    return made


def _split(count: int, seed: int) -> tuple[NDArray[np.int64], ...]:
    order = seeded(seed, 7).permutation(count)
    return order[:3000], order[3000:4000], order[4000:5000]


def _accuracy(
    name: str,
    teachers: int,
    questions: Questions,
    x: NDArray[np.float32],
    y: NDArray[np.int64],
    splits: int,
) -> Iterator[Row]:
    ours, rival, told, agreed, epsilon, raw, published = [], [], [], [], 0.0, 0.0, 0.0
    for seed in range(splits):
        private, public, test = _split(len(x), seed)
        plan = Plan(
            parting=Parting(teachers=teachers, salt=b"benchmark"),
            questions=questions,
            teachers=TEACHING,
            student_learning_rate=0.03,
        )
        if not seed:
            raw, published = _data_dependent(plan, x, y, private, public)
        made = train_student(
            _student(x.shape[1], seed),
            _student(x.shape[1]),
            x[private],
            y[private],
            x[public],
            plan=plan,
            delta=DELTA,
            seed=seed,
            experiment=True,
        )
        epsilon = made.epsilon
        ours.append(_right(made.model, x[test], y[test]))
        labelled = made.labels >= 0
        asked = y[public][: len(made.labels)]
        agreed.append(float((made.labels == asked)[labelled].mean()))
        told.append(int(labelled.sum()))
        rival.append(_right(_by_dp_sgd(x[private], y[private], epsilon, seed), x[test], y[test]))
    yield row(
        f"pate: {name}",
        "student's accuracy",
        100 * float(np.mean(ours)),
        100 * float(np.mean(rival)),
        "DP-SGD at the same epsilon, same records and inputs",
        higher=True,
        unit="%",
        n=1000 * splits,
        splits=[round(100 * value, 1) for value in ours],
        rival_splits=[round(100 * value, 1) for value in rival],
        epsilon=round(epsilon, 2),
        labels=round(float(np.mean(told))),
        labels_right=round(100 * float(np.mean(agreed)), 1),
        data_dependent_private=round(raw, 2),
        data_dependent_published=round(published, 2),
    )


def _data_dependent(
    plan: Plan,
    x: NDArray[np.float32],
    y: NDArray[np.int64],
    private: NDArray[np.int64],
    public: NDArray[np.int64],
) -> tuple[float, float]:
    """The raw data-dependent epsilon, and the published one; the first to be shown for no others.

    These records are public, so that both may stand side by side here. The median of 101
    publications, without the worst case as a ceiling.
    """
    teachers, questions = plan.parting.teachers, plan.questions
    publication = suggested_publication(questions, teachers=teachers, classes=10, delta=DELTA)
    parts = plan.parting.rows(units_of(x[private], y[private], None))
    trained = stack.train_teachers(
        _student(x.shape[1]), x[private], y[private], parts, plan=plan.teachers
    )
    aggregator = Aggregator(questions, seed=0, experiment=True)
    ask_all(aggregator, trained.votes(x[public][: questions.asked]))
    tail = -np.log(DELTA)
    raws = {}
    for order in (1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0):
        at = Publication(order=order)
        raws[order] = loss_of(aggregator.trace, at).total + tail / (order - 1)
    told = [
        publish(aggregator.trace, publication, delta=DELTA, worst_case=np.inf).epsilon
        for _ in range(101)
    ]
    return min(raws.values()), float(np.median(told))


def _student(size: int, seed: int = 0) -> nn.Module:
    # The inputs are unit vectors, which need no constants of anybody's data.
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(size, 10))


def _by_dp_sgd(
    x: NDArray[np.float32], y: NDArray[np.int64], epsilon: float, seed: int
) -> nn.Module:
    return dp_sgd.train_dp(
        _student(x.shape[1], seed),
        torch.from_numpy(x),
        torch.from_numpy(y),
        losses=dp_sgd.default_losses,
        epsilon=epsilon,
        delta=DELTA,
        plan=dp_sgd.Plan(steps=200, expected_batch=300, learning_rate=1.0, averaging=0.9),
        seed=seed,
    ).model


def _right(model: nn.Module, x: NDArray[np.float32], y: NDArray[np.int64]) -> float:
    with torch.no_grad():
        return float((model(torch.from_numpy(x)).argmax(-1).numpy() == y).mean())


def _speed(teachers: int, x: NDArray[np.float32], y: NDArray[np.int64]) -> Row:
    """The same teachers, draw for draw, as one stack and by a plain loop; CPU seconds."""
    template = build("mlp", shape=(1, 28, 28), outputs=10, options={"widths": (32,)})
    rows_of = Parting(teachers=teachers, salt=b"benchmark").rows(units_of(x[:3000], y[:3000], None))
    start = time.process_time()
    stack.train_teachers(template, x, y, rows_of, plan=TEACHING)
    stacked = time.process_time() - start
    start = time.process_time()
    for own in rows_of:
        _one(template, x[own], y[own])
    return row(
        f"pate: {teachers} teachers, 784-32-10, 100 steps of 16",
        "CPU seconds to train all teachers",
        stacked,
        time.process_time() - start,
        "one after the other, plain PyTorch",
        unit="s CPU",
        n=teachers,
    )


def _one(template: nn.Module, x: NDArray[np.float32], y: NDArray[np.int64]) -> nn.Module:
    model = copy.deepcopy(template)
    optimiser = torch.optim.AdamW(model.parameters(), lr=TEACHING.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, TEACHING.steps)
    inputs, targets = torch.from_numpy(x), torch.from_numpy(y)
    for _ in range(TEACHING.steps):
        picked = torch.randint(len(x), (TEACHING.batch_size,))
        optimiser.zero_grad()
        functional.cross_entropy(model(inputs[picked]), targets[picked]).backward()
        optimiser.step()
        schedule.step()
    return model


if __name__ == "__main__":
    torch.set_num_threads(1)
    for found in rows(quick="--quick" in sys.argv):
        print(json.dumps(found), flush=True)
