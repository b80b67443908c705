"""Label canaries: records trained with a random label, which a classifier can only memorise.

The secret is the label, so the space is the C classes and an exposure is log2 C bits at most; a
few dozen canaries make up for that. They are searched like any other canary: token 0 is the
record's row, token 1 its label.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reticent.attacks.extraction.copy import Batch
from reticent.attacks.memorisation.canaries import Canary, Template, draw_canaries
from reticent.attacks.target import ScoreTarget
from reticent.errors import ConfigError


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelCosts:
    """Costs of (row, label) pairs from log-probabilities (n, C) that were asked for once."""

    log_probabilities: NDArray[np.float64]

    @classmethod
    def of_target(cls, target: ScoreTarget, records: Batch) -> LabelCosts:
        """One question per record (n, ...)."""
        return cls(log_probabilities=target.predict_scores(records))

    def __call__(self, sequences: NDArray[np.int64]) -> NDArray[np.float64]:
        """-log p(label | record) in nats, (n,), of pairs (n, 2)."""
        return np.asarray(-self.log_probabilities[sequences[:, 0], sequences[:, 1]])


def draw_label_canaries(
    rows: Sequence[int], classes: int, *, seed: int | None = None
) -> tuple[Canary, ...]:
    """One canary per row: a uniform label, independent of the record. Without seed, secret.

    Train on `label_of` them, or keep them out as controls. Raises `ConfigError` for one class.
    """
    if classes < 2:
        raise ConfigError(f"Expected classes >= 2, got classes={classes}: no label is a secret.")
    labels = tuple(range(classes))
    return draw_canaries([Template(positions=((int(row),), labels)) for row in rows], seed=seed)


def label_of(canary: Canary) -> int:
    """The label to train the canary's record with."""
    return canary.tokens[1]
