"""A linear model from answers that were rounded: rounding costs queries and hides nothing.

The cross-entropy to rounded probabilities is convex and nearly unbiased, zeros included. What
rounding hides least are points where all classes are about alike, so those are asked.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import optimize

from reticent.attacks.extraction.copy import normalised
from reticent.attacks.extraction.oracle import Design, Oracle, Real

_LOGITS = 1.5
"""Root mean square by which a query moves the logits."""

_FAR = 4.0
_SMALL = 0.05
_DIFFERENT = 0.4
_DOUBLINGS = 16
_ROUNDS = 4
_MOST_ROUNDS = 4
_RIDGE = 1e-8
_DOUBT = 1e-3


def solve_rounded(
    oracle: Oracle, design: Design, *, queries: int, start: Real | None, rng: np.random.Generator
) -> Real:
    """theta (d + 1, C), weights above biases, from `queries` more answers and all before.

    With no `start`, a few directions are explored first, to find a point where classes are alike.
    """
    width = design.width
    asked = oracle.target.queries
    if start is None:
        theta, anchor, step = _explore(oracle, design, queries, rng)
    else:
        theta = _likeliest(oracle.points, oracle.answers, start)
        anchor, step = _alike(theta), _step(theta, width)
    row = 0
    left = queries - (oracle.target.queries - asked)
    chunk = max(width, -(-left // _MOST_ROUNDS))
    while left > 0:
        count = min(chunk, left)
        # The same direction twice would be rounded in the same way: beyond the rows, random ones.
        fixed = design.rows(row, min(row + count, max(row, width)))
        extra = rng.choice([-1.0, 1.0], size=(count - len(fixed), width))
        oracle.ask(anchor + step * np.concatenate([fixed, extra]))
        row, left = row + count, left - count
        theta = _likeliest(oracle.points, oracle.answers, theta, origin=anchor, unit=step)
        anchor, step = _alike(theta), _step(theta, width)
    return theta


def _explore(
    oracle: Oracle, design: Design, queries: int, rng: np.random.Generator
) -> tuple[Real, Real, float]:
    """A first theta, a point where classes are about alike, and a step, from a few directions."""
    before = oracle.target.queries
    few = min(design.width, 2 * oracle.target.classes)
    basis = design.rows(0, few)
    here = np.exp(oracle.ask(np.zeros((1, design.width)))[1])
    step = _SMALL

    def ask(anchor: Real, count: int) -> Real:
        count = min(count, max(0, queries - (oracle.target.queries - before)))
        signs = rng.choice([-1.0, 1.0], size=(count, few))
        return np.exp(oracle.ask((anchor + step * signs) @ basis)[1]) if count else here

    for _doubling in range(_DOUBLINGS):
        # Rounding hides small moves: go on until the answers differ.
        if np.abs(ask(np.zeros(few), 4) - here).sum(axis=1).mean() > _DIFFERENT:
            break
        step *= 2
    small, anchor = np.zeros((few + 1, len(here[0]))), np.zeros(few)
    for _round in range(_ROUNDS):
        ask(anchor, 2 * few)
        # All points so far lie in the span of the basis, whose rows have norm sqrt(d).
        inside = oracle.points @ basis.T / design.width
        small = _likeliest(inside, oracle.answers, small, origin=anchor, unit=step, ridge=_DOUBT)
        move = _alike(small) - anchor
        furthest = 2 * step * math.sqrt(few)
        anchor = anchor + move * min(1.0, furthest / max(float(np.linalg.norm(move)), 1e-30))
        step = float(np.clip(_step(small, few), step / 2, 2 * step))
    theta = np.concatenate([basis.T @ small[:-1] / design.width, small[-1:]])
    # An unexplored direction moves the logits as much as an explored one.
    return theta, anchor @ basis, _step(small, 1)


def _alike(theta: Real) -> Real:
    """The point nearest to the centre where all logits are equal, or the part of the way to it."""
    weights, biases = theta[:-1], theta[-1] - theta[-1].mean()
    weights = weights - weights.mean(axis=1, keepdims=True)
    anchor = -np.linalg.lstsq(weights.T, biases, rcond=1e-3)[0]
    reach = _FAR * math.sqrt(len(weights))
    return np.asarray(anchor * min(1.0, reach / max(float(np.linalg.norm(anchor)), 1e-30)))


def _step(theta: Real, terms: int) -> float:
    """The step at which `terms` random signs move a logit by `_LOGITS` in root mean square."""
    per_term = float(np.sqrt((theta[:-1] ** 2).mean()))
    return _LOGITS / max(per_term * math.sqrt(terms), 1e-30)


def _likeliest(
    points: Real,
    answers: Real,
    start: Real,
    *,
    origin: Real | None = None,
    unit: float = 1.0,
    ridge: float = _RIDGE,
) -> Real:
    """theta of least cross-entropy to all answers, found in coordinates (u - origin) / unit."""
    origin = np.zeros(points.shape[1]) if origin is None else origin
    inside = (points - origin) / unit
    shares = np.exp(answers)

    def loss(flat: Real) -> tuple[float, Real]:
        theta = flat.reshape(start.shape)
        logs = normalised(inside @ theta[:-1] + theta[-1])
        gap = (np.exp(logs) - shares) / len(points)
        value = -float((shares * logs).sum()) / len(points) + ridge * float((flat**2).sum())
        slope = np.concatenate([inside.T @ gap, gap.sum(axis=0, keepdims=True)])
        return value, (slope + 2 * ridge * theta).reshape(-1)

    moved = np.concatenate([start[:-1] * unit, (start[-1] + origin @ start[:-1])[None]])
    found = optimize.minimize(
        loss,
        moved.reshape(-1),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": 150, "ftol": 1e-12, "gtol": 1e-8, "maxcor": 12},
    ).x.reshape(start.shape)
    weights = found[:-1] / unit
    return np.concatenate([weights, (found[-1] - origin @ weights)[None]])
