"""A copied model: what extraction attacks return."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reticent.attacks.target import BlindTarget
from reticent.errors import DataError

Batch = NDArray[np.floating[Any]]
LogProbabilities = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Copy:
    """What an attacker made of the target's answers.

    `predict` maps records (n, ...) to log-probabilities (n, C) in nats; `queries` is what the
    target was asked for it; `facts` says how it went (JSON-able).
    """

    method: str
    predict: Callable[[Batch], LogProbabilities]
    queries: int
    facts: Mapping[str, Any] = field(default_factory=dict)

    def score(self, target: BlindTarget, candidates: Batch) -> LogProbabilities:
        """The copy's log-probabilities (n, C) of `candidates`; the target isn't asked again."""
        if candidates.shape[1:] != target.shape:
            raise DataError(
                f"Expected records of shape {target.shape}, got {candidates.shape[1:]}."
            )
        return self.predict(candidates)


@dataclass(frozen=True, kw_only=True, eq=False)
class LinearRule:
    """log p_c(x) = x . weights[:, c] + biases[c] + a term that all classes share.

    `weights` (d, C) and `biases` (C,) are only known up to a constant per feature; here each
    feature's weights and the biases sum to 0 over the classes.
    """

    weights: NDArray[np.float64]
    biases: NDArray[np.float64]

    def __call__(self, x: Batch) -> LogProbabilities:
        """Log-probabilities (n, C) of records (n, ...)."""
        logits = x.reshape(len(x), -1).astype(np.float64) @ self.weights + self.biases
        return normalised(logits)


def normalised(logits: NDArray[np.float64]) -> LogProbabilities:
    """Log-softmax over the last axis."""
    top = logits - logits.max(axis=-1, keepdims=True)
    return np.asarray(top - np.log(np.exp(top).sum(axis=-1, keepdims=True)))


def gauge(auxiliary: Batch) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Centre (d,) and scale (d,) of flattened records; constant features get the mean scale."""
    flat = auxiliary.reshape(len(auxiliary), -1).astype(np.float64)
    centre, scale = flat.mean(axis=0), flat.std(axis=0)
    moving = scale > 1e-9 * np.maximum(np.abs(centre), 1e-30)
    typical = float(scale[moving].mean()) if moving.any() else 1.0
    return centre, np.where(moving, scale, typical)
