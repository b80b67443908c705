"""Least squares with differential privacy, from noisy sums of products.

AdaSSP (Wang 2018, "Revisiting differentially private linear regression", algorithm 2): X'X, X'Y
and the smallest eigenvalue of X'X each get Gaussian noise, and a ridge that the noisy eigenvalue
calls for keeps the inverse tame. The three releases are accounted for together, as Gaussian
mechanisms by privacy loss distributions, where the paper adds up thirds of epsilon. One pass, no
rates to choose; with one-hot targets it is a classifier.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from reticent.errors import DataError
from reticent.guarantee import Guarantee
from reticent.training.dp_sgd.accountant import Mechanism, calibrate
from reticent.training.dp_sgd.accountant import epsilon as spent_epsilon
from reticent.training.dp_sgd.noise import Noise, SecureNoise, SeededNoise
from reticent.training.moments import add_symmetric, bounded, guarantee

_FAILURE = 0.05


@dataclass(frozen=True, kw_only=True)
class LeastSquares:
    """`weights` (d, k) for x @ weights; `guarantee` is None for a seeded run."""

    weights: Tensor
    ridge: float
    mechanism: Mechanism
    epsilon: float
    guarantee: Guarantee | None


def private_least_squares(
    x: Tensor,
    y: Tensor,
    *,
    epsilon: float,
    delta: float,
    row_norm: float = 1.0,
    target_norm: float = 1.0,
    seed: int | None = None,
) -> LeastSquares:
    """Weights that map x (n, d) to y (n,) or (n, k), (epsilon, delta)-private per record.

    Rows of x longer than `row_norm`, and of y longer than `target_norm`, are scaled down: both are
    public bounds. Neighbours add or remove one record. Raises `DataError` for records that aren't
    finite numbers of one count.
    """
    rows, targets = bounded(x, row_norm, "x"), bounded(y, target_norm, "y")
    if len(rows) != len(targets) or not len(rows):
        raise DataError(
            f"Expected one target for each record and at least one, got x={tuple(x.shape)}, "
            f"y={tuple(y.shape)}."
        )
    mechanism = calibrate(epsilon, delta, mechanism=Mechanism(noise_multiplier=1.0, steps=3))
    noise: Noise = SecureNoise() if seed is None else SeededNoise(seed)
    sigma, square = mechanism.noise_multiplier, row_norm**2
    gram = rows.T @ rows
    # An eigenvalue moves by at most the norm of what is added (Weyl).
    lowest = torch.linalg.eigvalsh(gram)[:1]
    noise.add_to(lowest, sigma=sigma * square, clip_norm=square)
    noisy = add_symmetric(gram, noise, sigma * square, square)
    joint = (rows.T @ targets).contiguous()
    scale = row_norm * target_norm
    noise.add_to(joint.view(-1), sigma=sigma * scale, clip_norm=scale)
    ridge = _ridge(float(lowest), gram.shape[0], sigma * square)
    weights = torch.linalg.solve(noisy + ridge * torch.eye(len(noisy), dtype=torch.float64), joint)
    spent = spent_epsilon(mechanism, delta)
    return LeastSquares(
        weights=weights.reshape(x.shape[1], *y.shape[1:]).float(),
        ridge=ridge,
        mechanism=mechanism,
        epsilon=spent,
        guarantee=guarantee(
            spent,
            delta,
            name="dp-least-squares",
            mechanism="AdaSSP: Gaussian noise on X'X, X'Y and the smallest eigenvalue",
            source="Wang 2018, algorithm 2",
        )
        if seed is None
        else None,
    )


def _ridge(lowest: float, size: int, noise: float) -> float:
    """Enough that noise of this size can't make the sum singular, but for a twentieth of runs."""
    reach = noise * math.sqrt(size * math.log(2 * size**2 / _FAILURE))
    return max(0.0, reach - max(0.0, lowest - noise * math.sqrt(math.log(6 / _FAILURE))))
