"""Sums over records with bounded rows, and the noise that makes them private."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from reticent.errors import ConfigError, DataError
from reticent.guarantee import DifferentialPrivacy, Guarantee, Pillar
from reticent.training.dp_sgd.noise import Noise
from reticent.training.dp_sgd.trainer import INSIDER

# Rows are cut a little short, so that neither rounding nor the noise's grid adds to them.
_MARGIN = 1 - 2.0**-16


def bounded(values: Tensor, norm: float, name: str) -> Tensor:
    """(n, k) float64 with rows of at most `norm`."""
    if not 0 < norm < math.inf:
        raise ConfigError(f"Expected a bound > 0 on the norm of {name}, got {norm}.")
    made = values.double().reshape(len(values), -1)
    if not torch.isfinite(made).all():
        raise DataError(f"Expected finite numbers in {name}. Drop or impute the others.")
    lengths = made.norm(dim=1, keepdim=True)
    bounded: Tensor = made * (norm * _MARGIN / lengths.clamp(min=norm * _MARGIN))
    return bounded


def add_symmetric(gram: Tensor, noise: Noise, sigma: float, clip_norm: float) -> Tensor:
    """Noise on the upper triangle, mirrored: a record moves it by at most its whole norm."""
    upper = torch.triu_indices(*gram.shape)
    values = gram[upper[0], upper[1]].contiguous()
    noise.add_to(values, sigma=sigma, clip_norm=clip_norm)
    made = torch.zeros_like(gram)
    made[upper[0], upper[1]] = values
    made[upper[1], upper[0]] = values
    return made


def guarantee(epsilon: float, delta: float, *, name: str, mechanism: str, source: str) -> Guarantee:
    """What noisy sums over bounded rows claim, per record."""
    return Guarantee(
        id=name,
        pillar=Pillar.TRAINING_DATA,
        adversary=INSIDER,
        strength=DifferentialPrivacy(
            epsilon=epsilon, delta=delta, neighboring_relation="add or remove one", unit="record"
        ),
        mechanism=mechanism,
        assumptions=(
            "the bounds on rows and targets are public",
            "the central trainer is trusted",
            "AES-256 in counter mode is indistinguishable from random",
        ),
        source=f"{source}; privacy loss distributions by dp-accounting",
    )
