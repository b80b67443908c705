"""Weights from an encrypted reply's slots: partial sums that travel with the answers.

Rotate-and-add leaves in each slot a sum of products of weights and inputs; only some slots are
whole outputs. Who holds the key reads them all, and each is one more linear equation in the
weights. The attacker asks everything twice: what a fresh mask covers differs, what repeats is an
equation.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
# Two masks of 2**29 values come this near once in 2**28; an answer's own noise is far smaller.
_ALIKE = 1.0


def repeating(first: Array, second: Array) -> NDArray[np.bool_]:
    """Which slots (slots,) of two replies to one query say the same."""
    return np.asarray(np.abs(first - second) < _ALIKE)


def solve_slots(equations: Array, values: Array) -> Array:
    """The shortest unknowns (u,) for which equations (m, u) give values (m,), by least squares.

    Directions that the equations hardly show are left at 0.
    """
    if not len(values):
        return np.zeros(equations.shape[1])
    return np.asarray(np.linalg.lstsq(equations, values, rcond=1e-3)[0], dtype=np.float64)


def solve_linear(points: Array, answers: Array) -> Array:
    """Weights (outputs, d + 1), the constant's last, from queries (m, d) and answers (m, outputs).

    Least squares: rounding is noise to it, which more queries average out.
    """
    rows = np.hstack([points, np.ones((len(points), 1))])
    return np.asarray(np.linalg.lstsq(rows, answers, rcond=None)[0].T, dtype=np.float64)


def recovered(true: Array, guess: Array) -> float:
    """The share of the weights' energy that a guess has right: 1 for all of it, 0 for none."""
    return max(0.0, 1.0 - float(((true - guess) ** 2).sum() / (true**2).sum()))
