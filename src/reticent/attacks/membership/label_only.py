"""Attacks that see the predicted class only: is it right, and how far must a record move to change?

A record that was trained on tends to lie further from the decision boundary. `gap_scores` asks once
per record (Yeom et al. 2018, section 3.2), `noise_scores` asks about noisy copies (Choquette-Choo
et al. 2021, section 3.3), `boundary_distances` walks to the boundary and along it (HopSkipJump,
Chen et al. 2020, Algorithm 2, in L2). Hiding confidences takes nothing from them.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from reticent.attacks.spec import Labelled, Scores
from reticent.attacks.target import LabelTarget
from reticent.errors import ConfigError
from reticent.random import seeded

NOISE_LEVELS = (0.1, 0.3, 1.0, 3.0)
_BISECTIONS = 10
_BATCH = 4096


def gap_scores(target: LabelTarget, records: Labelled) -> Scores:
    """1 where the predicted class is the label, else 0, (n,). One query per record."""
    return np.asarray(target.predict_label(records.x) == records.y, dtype=np.float64)


def noise_scores(
    target: LabelTarget,
    records: Labelled,
    *,
    copies: int = 16,
    levels: tuple[float, ...] = NOISE_LEVELS,
    seed: int = 0,
) -> Scores:
    """The share of noisy copies that keep the record's label, (n,), with the record itself.

    `copies` Gaussian copies at each of `levels` times the features' mean standard deviation.
    n * (1 + copies * len(levels)) queries.
    """
    if copies < 1 or not levels:
        raise ConfigError(f"Expected copies >= 1 and some levels, got copies={copies}, {levels=}.")
    rng = seeded(seed, 41)
    scale = _scale(records.x)
    kept = gap_scores(target, records)
    for level in levels:
        for _copy in range(copies):
            noise = rng.standard_normal(records.x.shape, dtype=np.float32)
            moved = records.x + np.float32(level * scale) * noise
            kept += target.predict_label(moved) == records.y
    return np.asarray(kept / (1 + copies * len(levels)))


def boundary_distances(
    target: LabelTarget, records: Labelled, *, queries: int = 200, seed: int = 0
) -> Scores:
    """The least L2 distance found at which the predicted class stops being the label, (n,).

    0 for records that are classified otherwise to begin with. Each record starts from the nearest
    of a few other candidates that get another class, walks to the boundary by bisection, then
    steps along gradients estimated from the classes of random neighbours. At most `queries`
    queries per record; `ConfigError` below 40, which is one step.
    """
    if queries < 40:
        raise ConfigError(f"Expected queries >= 40 per record, got queries={queries}.")
    x, y = records.x.reshape(len(records), -1).astype(np.float64), records.y
    shape = records.x.shape[1:]
    predicted = target.predict_label(records.x)
    rows = np.flatnonzero(np.asarray(predicted == y))
    distance = np.zeros(len(x))
    if not len(rows):
        return distance
    walk = _Walk(target, x[rows], y[rows], shape, seed)
    start = _starts(x, predicted, rows, seeded(seed, 42))
    lost = np.asarray(np.isnan(start).any(axis=1))
    # Where everything gets one class no boundary is known: further than all found.
    edge = np.where(lost[:, None], walk.x, start)
    edge = walk.bisect(edge)
    best = np.linalg.norm(edge - walk.x, axis=1)
    spent = 1 + _BISECTIONS
    step = 0
    while True:
        step += 1
        probes = min(int(8 * math.sqrt(step)), queries - spent - 2 * _BISECTIONS)
        if probes < 8:
            break
        edge = walk.bisect(walk.step(edge, probes, step))
        spent += probes + 2 * _BISECTIONS
        best = np.minimum(best, np.linalg.norm(edge - walk.x, axis=1))
    best[lost] = 2 * best.max() + 1
    distance[rows] = best
    return distance


class _Walk:
    """All records walk at once; the classes of one step are asked for together."""

    def __init__(
        self,
        target: LabelTarget,
        x: NDArray[np.float64],
        y: NDArray[np.int64],
        shape: tuple[int, ...],
        seed: int,
    ) -> None:
        self.target, self.x, self.y, self.shape = target, x, y, shape
        self.rng = seeded(seed, 43)

    def adversarial(self, points: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which of one point per record get another class than the record's label."""
        parts = [
            self.target.predict_label(
                points[start : start + _BATCH].reshape(-1, *self.shape).astype(np.float32)
            )
            for start in range(0, len(points), _BATCH)
        ]
        return np.asarray(np.concatenate(parts) != self.y)

    def bisect(self, outside: NDArray[np.float64]) -> NDArray[np.float64]:
        """Points on the segments to the records, just outside the boundary."""
        low, high = np.zeros((len(self.x), 1)), np.ones((len(self.x), 1))
        for _round in range(_BISECTIONS):
            middle = (low + high) / 2
            over = self.adversarial(self.x + middle * (outside - self.x))[:, None]
            low, high = np.where(over, low, middle), np.where(over, middle, high)
        return self.x + high * (outside - self.x)

    def step(self, edge: NDArray[np.float64], probes: int, number: int) -> NDArray[np.float64]:
        """Points further along the estimated normals, outside the boundary."""
        away = edge - self.x
        reach = np.linalg.norm(away, axis=1)
        radius = np.maximum(reach / math.sqrt(self.x.shape[1]), 1e-9)[:, None]
        sides, normal, drift = np.zeros(len(edge)), np.zeros_like(edge), np.zeros_like(edge)
        for _probe in range(probes):
            direction = self.rng.standard_normal(edge.shape)
            direction /= np.linalg.norm(direction, axis=1, keepdims=True)
            side = self.adversarial(edge + radius * direction) * 2.0 - 1
            sides += side
            normal += side[:, None] * direction
            drift += direction
        # The paper's baseline: less variance where most neighbours fall on one side.
        mean = sides / probes
        normal -= np.where(np.abs(mean) < 1, mean, 0.0)[:, None] * drift
        normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
        length = (reach / math.sqrt(number))[:, None]
        for _halving in range(_BISECTIONS):
            moved = edge + length * normal
            inside = ~self.adversarial(moved)[:, None]
            if not inside.any():
                break
            length = np.where(inside, length / 2, length)
        return np.where(inside, edge, moved)


def _starts(
    x: NDArray[np.float64],
    predicted: NDArray[np.int64],
    rows: NDArray[np.int64],
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """For each record the nearest of up to 200 others that got another class; NaN without one."""
    few = rng.permutation(len(x))[: min(len(x), 200)]
    apart = (
        (x[rows] ** 2).sum(axis=1)[:, None]
        + (x[few] ** 2).sum(axis=1)[None, :]
        - 2 * x[rows] @ x[few].T
    )
    apart[predicted[rows][:, None] == predicted[few][None, :]] = np.inf
    nearest = apart.argmin(axis=1)
    found = x[few[nearest]]
    found[np.isinf(apart[np.arange(len(rows)), nearest])] = np.nan
    return np.asarray(found)


def _scale(x: NDArray[np.float32]) -> float:
    spread = x.reshape(len(x), -1).std(axis=0, dtype=np.float64)
    moving = spread[spread > 0]
    return float(moving.mean()) if len(moving) else 1.0
