"""Margins with a known membership effect, for the scorers' tests."""

from __future__ import annotations

import numpy as np

from reticent.attacks.membership.signals import References, Signals


def planted(
    *,
    models: int,
    rows: int,
    effect: float,
    seed: int = 0,
    population: int = 50,
    share: np.ndarray | float = 0.5,
) -> References:
    """References whose margins are hardness + `effect` where trained + noise.

    Model 0, which the tests attack, trained on each row with probability 1/2; the others on each
    row with probability `share`, independently.
    """
    rng = np.random.default_rng(seed)
    member = rng.random((models, rows)) < np.broadcast_to(share, (models, rows))
    member[0] = rng.random(rows) < 0.5
    hardness = 2 * rng.normal(size=rows + population)
    trained = np.pad(member, ((0, 0), (0, population)))
    margin = hardness + effect * trained + rng.normal(size=trained.shape)
    confidence = -np.logaddexp(0, -margin)
    signals = Signals(margin=margin, log_confidence=confidence, pool=rows)
    return References(signals=signals, member=member)
