"""The answers that a service can give, as a finite list, and how good they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reticent.data.task import Kind

DEFAULT_LEVELS = 16


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Answer indices 0..levels-1 for outputs and labels alike.

    Classification: the classes. Regression: `levels` intervals between `edges` (levels - 1,),
    each answered by its value in `values` (levels,).
    """

    kind: Kind
    levels: int
    edges: NDArray[np.float32] | None = None
    values: NDArray[np.float32] | None = None

    @classmethod
    def of(
        cls, kind: Kind, public: NDArray[Any], *, classes: int, levels: int | None = None
    ) -> Answers:
        """The answers for training labels `public`; regression gets equal-width `levels`."""
        if kind is not Kind.REGRESSION:
            return cls(kind=kind, levels=classes)
        count = levels or DEFAULT_LEVELS
        low, high = np.quantile(public, [0.001, 0.999])
        bounds = np.linspace(low, high, count + 1)
        return cls(
            kind=kind,
            levels=count,
            edges=bounds[1:-1].astype(np.float32),
            values=((bounds[1:] + bounds[:-1]) / 2).astype(np.float32),
        )

    @property
    def outputs(self) -> int:
        """How many outputs a network for this task has."""
        return 1 if self.kind is Kind.REGRESSION else self.levels

    def index_labels(self, public: NDArray[Any]) -> NDArray[np.int64]:
        """Answer index of true labels (n,)."""
        if self.edges is None:
            return np.asarray(public, dtype=np.int64)
        return np.searchsorted(self.edges, public).astype(np.int64)

    def index_outputs(self, outputs: NDArray[np.float32]) -> NDArray[np.int64]:
        """Answer index of network outputs (n, outputs)."""
        if self.edges is None:
            return np.asarray(outputs.argmax(axis=1), dtype=np.int64)
        return np.searchsorted(self.edges, outputs[:, 0]).astype(np.int64)


METRICS = {
    Kind.CLASSIFICATION: "accuracy",
    Kind.ANOMALY: "balanced accuracy",
    Kind.REGRESSION: "R2",
}


def outcomes(kind: Kind, outputs: NDArray[np.float32], public: NDArray[Any]) -> NDArray[np.float64]:
    """Per-record contributions (n,) whose mean is the task's metric.

    Accuracy: hits. Balanced accuracy: hits, each weighted by n / (classes * class count).
    R2: 1 - squared error / variance of the labels.
    """
    if kind is Kind.REGRESSION:
        truth = np.asarray(public, dtype=np.float64)
        error = outputs[:, 0].astype(np.float64) - truth
        return np.asarray(1 - error**2 / truth.var())
    hit = np.asarray(outputs.argmax(axis=1) == public, dtype=np.float64)
    if kind is Kind.CLASSIFICATION:
        return hit
    counts = np.bincount(public)
    return np.asarray(hit * len(public) / ((counts > 0).sum() * counts[public]))


def utility(kind: Kind, outputs: NDArray[np.float32], public: NDArray[Any]) -> float:
    """The task's metric of network outputs (n, outputs) against labels (n,)."""
    return float(outcomes(kind, outputs, public).mean())
