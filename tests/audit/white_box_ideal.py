"""What an insider sees of the ideal mechanism, drawn from its law without any training."""

from __future__ import annotations

from typing import Any

import numpy as np

from reticent.audit.white_box_canaries import Declared, Route, Sight
from reticent.training.dp_sgd.accountant import Mechanism

RATE = 0.125


def declared(noise: float = 1.2, steps: int = 20, rate: float = RATE, **more: Any) -> Declared:
    mechanism = Mechanism(noise_multiplier=noise, steps=steps, sampling_probability=rate)
    return Declared(mechanism=mechanism, clip_norm=1.0, divisor=1.0, **more)


def ideal(
    seed: int,
    *,
    noise: float = 1.2,
    steps: int = 20,
    rate: float = RATE,
    canaries: int = 100,
    others: int = 50,
    spare: int = 200,
    moves: float | np.ndarray = 1.0,
) -> Sight:
    rng = np.random.default_rng(seed)
    total = 1 + canaries + others
    draws = rng.random((steps, total)) < rate
    records = 1 + rng.permutation(total - 1)[:canaries]
    included = rng.random(canaries) < 0.5
    scores = noise * rng.standard_normal((steps, canaries))
    scores += np.where(draws[:, records] & included, moves, 0.0)
    return Sight(
        scores=scores,
        spare=noise * rng.standard_normal((steps, spare)),
        draws=draws,
        records=records,
        included=included,
        routes=np.arange(canaries) % len(Route),
        tensors=6,
    )
