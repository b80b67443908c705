"""White-box inversion: optimise an input until the encoder maps it to what the server saw."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reticent.attacks.view import ServerView

_QUIET = 1e-8


def invert(
    view: ServerView,
    seen: NDArray[np.float32],
    starts: NDArray[np.float32],
    *,
    prior: float,
    smoothness: float,
    steps: int,
) -> NDArray[np.float32]:
    """Inputs (n, ...) whose features match `seen` (n, ...), found by Adam from `starts`.

    Minimises the squared distance of features, in standard deviations of the attacker's own
    features, plus `prior` times the squared distance from the start, in standard deviations of
    its own inputs, plus `smoothness` times the total variation along all axes after the channel
    axis (Mahendran & Vedaldi 2015). All terms are means per element, so weights carry over
    between shapes; values stay within the range of the attacker's own inputs.
    """
    assert view.encoder is not None
    train = view.attacker_train
    spread = train.features.std(axis=0)
    scale = torch.from_numpy(np.maximum(spread, _QUIET * max(float(spread.max()), _QUIET)))
    goal = torch.from_numpy(np.ascontiguousarray(seen))
    start = torch.from_numpy(np.ascontiguousarray(starts))
    low, high = float(train.inputs.min()), float(train.inputs.max())
    unit = float(train.inputs.std()) or 1.0
    encoder = view.encoder.eval()
    x = start.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([x], lr=0.05 * unit)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    for _ in range(steps):
        away = (encoder(x) - goal) / scale
        # Summed over records: each record is its own problem.
        loss = away.square().flatten(1).mean(dim=1).sum()
        loss = loss + prior * ((x - start) / unit).square().flatten(1).mean(dim=1).sum()
        if smoothness and x.ndim > 2:
            loss = loss + smoothness * _total_variation(x / unit).sum()
        (gradient,) = torch.autograd.grad(loss, [x])
        x.grad = gradient
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            x.clamp_(low, high)
    return np.asarray(x.detach().numpy())


def _total_variation(x: Tensor) -> Tensor:
    """Mean absolute step along every spatial axis, (n,)."""
    steps: Sequence[Tensor] = [x.diff(dim=axis) for axis in range(2, x.ndim)]
    return torch.stack([step.abs().flatten(1).mean(dim=1) for step in steps if step.numel()]).sum(0)
