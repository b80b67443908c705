"""Anomaly detection from normal records alone: a network that pulls them to one center.

Deep SVDD (Ruff et al. 2018), the one-class center loss: the anomaly score is the squared distance
to a fixed center. The network ends in two scores, normal and anomaly, whose difference changes
sign at the threshold, so that it can be hardened, served and audited like a classifier. A code
for it is the distance in one bit; `codes=4` and more send it in finer steps.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn

from reticent.data.task import Records
from reticent.errors import DataError
from reticent.models.one_class import Distance
from reticent.training.plain import Plan, Progress, Trained, descend, forward

# A center coordinate this close to zero could be met by switching its unit off (Ruff et al. 2018).
_CENTER_MARGIN = 0.1


def fit_one_class(
    model: nn.Sequential,
    train: Records,
    validation: Records,
    *,
    plan: Plan | None = None,
    false_alarms: float = 0.05,
    seed: int = 0,
    progress: Progress | None = None,
) -> Trained:
    """Train a copy of a `one_class_network` on the normal records (public 0) of `train`.

    The threshold is set so that a share `false_alarms` of the normal validation records lies
    beyond it; anomalies, where there are some, take no part. Raises `DataError` without normal
    records in either part.
    """
    if not 0 < false_alarms < 1:
        raise ValueError(f"Expected 0 < false_alarms={false_alarms} < 1.")
    plan = plan or Plan()
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = copy.deepcopy(model)
    distance = model[-1]
    if not isinstance(distance, Distance):
        raise DataError("Expected a network that ends in Distance. Make it by one_class_network.")
    x, held = _normal(train, "train"), _normal(validation, "validation")
    body = model[:-1]
    distance.center.copy_(_center(forward(body, x)))
    descend(
        model,
        [{"params": list(body.parameters()), "lr": plan.learning_rate}],
        loss=lambda rows: distance.squared(body(x[rows])).mean(),
        count=len(x),
        epochs=plan.epochs,
        batch_size=plan.batch_size,
        generator=generator,
        progress=progress,
    )
    scores = distance.squared(forward(body, held))
    distance.threshold.copy_(torch.quantile(scores, 1 - false_alarms))
    distance.scale.copy_(scores.std().clamp(min=1e-6))
    return Trained(model=model.eval(), validation_loss=float(scores.mean()))


def _normal(records: Records, part: str) -> Tensor:
    rows = np.flatnonzero(np.asarray(records.public) == 0)
    if len(rows) < 2:
        raise DataError(f"Part {part!r} has {len(rows)} normal records (public 0); give two.")
    return torch.from_numpy(records.x[rows])


def _center(features: Tensor) -> Tensor:
    mean = features.mean(dim=0)
    sign = torch.where(mean < 0, -1.0, 1.0)
    return torch.where(mean.abs() < _CENTER_MARGIN, sign * _CENTER_MARGIN, mean)
