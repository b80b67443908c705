"""Logistic regression by a few noisy Newton steps.

Ganesh et al. 2023, "Faster differentially private convex optimization via second-order methods":
each step releases the gradient and the Hessian with Gaussian noise, and divides by the Hessian with
its eigenvalues raised to the noise's own size, so that noise is never divided by next to nothing.
All releases are accounted for together. Few steps and no rates to choose, but a Hessian has the
square of the features' number in entries, all of them noisy: for tens of features, not thousands.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from reticent.errors import ConfigError, DataError
from reticent.guarantee import Guarantee
from reticent.training.dp_sgd.accountant import Mechanism, calibrate
from reticent.training.dp_sgd.accountant import epsilon as spent_epsilon
from reticent.training.dp_sgd.noise import Noise, SecureNoise, SeededNoise
from reticent.training.moments import add_symmetric, bounded, guarantee

# The logistic loss curves by at most a quarter.
_CURVATURE = 0.25


@dataclass(frozen=True, kw_only=True)
class NewtonFit:
    """`weights` (d,) for the log-odds x @ weights; `guarantee` is None for a seeded run."""

    weights: Tensor
    mechanism: Mechanism
    epsilon: float
    guarantee: Guarantee | None


def private_newton(
    x: Tensor,
    y: Tensor,
    *,
    epsilon: float,
    delta: float,
    steps: int = 4,
    row_norm: float = 1.0,
    ridge: float = 1.0,
    seed: int | None = None,
) -> NewtonFit:
    """Weights for labels y (n,) of 0 and 1 from x (n, d), (epsilon, delta)-private per record.

    Rows longer than `row_norm`, a public bound, are scaled down; `ridge` / 2 |w|^2 is added to the
    loss' sum. Neighbours add or remove one record. Raises `DataError` for other labels or numbers
    that aren't finite, `ConfigError` for constants that are none.
    """
    if not (steps >= 1 and 0 < ridge < math.inf):
        raise ConfigError(f"Expected steps >= 1 and ridge > 0, got {steps=}, {ridge=}.")
    rows = bounded(x, row_norm, "x")
    if y.shape != (len(rows),) or not len(rows) or not bool(((y == 0) | (y == 1)).all()):
        raise DataError(
            f"Expected a label 0 or 1 for each of {len(rows)} records, got y={tuple(y.shape)}."
        )
    asked = Mechanism(noise_multiplier=1.0, steps=2 * steps)
    mechanism = calibrate(epsilon, delta, mechanism=asked)
    noise: Noise = SecureNoise() if seed is None else SeededNoise(seed)
    truth, weights = y.double(), torch.zeros(rows.shape[1], dtype=torch.float64)
    for _ in range(steps):
        weights = weights - _step(rows, truth, weights, noise, mechanism, row_norm, ridge)
    spent = spent_epsilon(mechanism, delta)
    return NewtonFit(
        weights=weights.float(),
        mechanism=mechanism,
        epsilon=spent,
        guarantee=guarantee(
            spent,
            delta,
            name="dp-newton",
            mechanism=f"{steps} Newton steps: Gaussian noise on gradients and Hessians",
            source="Ganesh et al. 2023",
        )
        if seed is None
        else None,
    )


def _step(
    rows: Tensor,
    truth: Tensor,
    weights: Tensor,
    noise: Noise,
    mechanism: Mechanism,
    row_norm: float,
    ridge: float,
) -> Tensor:
    sigma, square = mechanism.noise_multiplier, _CURVATURE * row_norm**2
    odds = torch.sigmoid(rows @ weights)
    gradient = rows.T @ (odds - truth)
    noise.add_to(gradient, sigma=sigma * row_norm, clip_norm=row_norm)
    hessian = (rows * (odds * (1 - odds))[:, None]).T @ rows
    noisy = add_symmetric(hessian, noise, sigma * square, square)
    values, vectors = torch.linalg.eigh(noisy)
    # A symmetric Gaussian matrix reaches to about twice its noise times the root of its size.
    least = ridge + 2 * sigma * square * math.sqrt(len(values))
    raised = (values + ridge).clamp(min=least)
    made: Tensor = vectors @ ((vectors.T @ (gradient + ridge * weights)) / raised)
    return made
