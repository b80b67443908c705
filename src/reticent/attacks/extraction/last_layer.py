"""The last layer from its answers: hidden width, and weights up to a change of basis.

Logits of all records lie in a space no wider than the layer before them: their singular values
drop to rounding error after h of them (Carlini et al. 2024, algorithm 1), and the singular
vectors span the columns of the output weights (section 4.2 there). Log-probabilities are logits
up to a constant per record, so both are seen with classes centred; the bias goes with the mean.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reticent.attacks.extraction.copy import Batch
from reticent.attacks.extraction.oracle import centred
from reticent.attacks.spec import Access, AttackSpec
from reticent.attacks.target import ScoreTarget
from reticent.errors import ConfigError
from reticent.guarantee import Pillar

_DROP = 30.0
_NOISE = 1e-9


@dataclass(frozen=True, kw_only=True, eq=False)
class LastLayer:
    """What the answers say about the layer.

    `width` is the dimension of the features, as far as the queries move them; None where the
    answers fill all dimensions that C classes or n queries have, so that no width shows.
    `subspace` (C, width) is an orthonormal basis of the centred output weights' columns, `drop`
    the ratio of the last singular value to the next, `singular` all of them.
    """

    width: int | None
    subspace: NDArray[np.float64]
    drop: float
    singular: NDArray[np.float64]
    queries: int

    def residual(self, weights: NDArray[np.float64]) -> float:
        """The share of true output `weights` (C, h) outside the subspace, in Frobenius norm."""
        true = weights - weights.mean(axis=0)
        rest = true - self.subspace @ (self.subspace.T @ true)
        return float(np.linalg.norm(rest) / np.linalg.norm(true))


@dataclass(frozen=True, kw_only=True)
class LastLayerSearch:
    """Width and weights up to a change of basis, from `queries` answers (more than the width)."""

    queries: int

    @property
    def spec(self) -> AttackSpec:
        """What stands on the label."""
        return AttackSpec(
            name="last layer",
            pillar=Pillar.MODEL,
            goal="the hidden width, and the output weights up to a change of basis",
            access=Access.SCORES,
            auxiliary="unlabelled records, or noise in their range",
            reference="Carlini et al. 2024, algorithm 1 and section 4.2",
            queries=self.queries,
        )

    def fit(self, target: ScoreTarget, auxiliary: Batch, *, seed: int) -> LastLayer:
        """The layer, from the first `queries` records of `auxiliary` (n, ...).

        Raises `ConfigError` for fewer records than queries, or fewer than three queries.
        """
        if not 3 <= self.queries <= len(auxiliary):
            raise ConfigError(
                f"Expected 3 <= queries <= records, got queries={self.queries} and "
                f"{len(auxiliary)} records."
            )
        before = target.queries
        logits = centred(target.predict_scores(auxiliary[: self.queries]))
        logits = logits - logits.mean(axis=0)
        _left, singular, right = np.linalg.svd(logits, full_matrices=False)
        # Centred rows and columns take one dimension each.
        most = min(len(logits) - 1, logits.shape[1] - 1)
        values = np.maximum(singular[:most], _NOISE * singular[0])
        drops = values[:-1] / values[1:]
        width: int | None = None
        drop = 1.0
        if len(drops):
            at = int(drops.argmax())
            drop = float(drops[at])
            if drop >= _DROP:
                width = at + 1
        return LastLayer(
            width=width,
            subspace=np.asarray(right[: width or most].T),
            drop=drop,
            singular=singular,
            queries=target.queries - before,
        )
