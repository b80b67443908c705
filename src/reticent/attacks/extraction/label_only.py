"""Boundary search: a linear model from predicted classes alone (Lowd & Meek 2005).

Halving the way between two records of different classes finds a point where the two classes are
alike, to a bit more with each query. There (w_a - w_b) . x + b_a - b_b = 0: enough such points
give the model up to a positive factor, which no predicted class depends on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reticent.attacks.extraction.copy import Batch, Copy, LinearRule, gauge
from reticent.attacks.spec import Access, AttackSpec
from reticent.attacks.target import LabelTarget
from reticent.errors import ConfigError, DataError, UnsupportedError
from reticent.guarantee import Pillar
from reticent.random import seeded

_MOST = 4000
_START = 0.1


@dataclass(frozen=True, kw_only=True)
class BoundarySearch:
    """Softmax regression up to scale from about `bits` queries for each of its parameters.

    A tenth of the `queries` label records of one's own; the others halve ways between them.
    """

    queries: int
    bits: int = 18

    @property
    def spec(self) -> AttackSpec:
        """What stands on the label."""
        return AttackSpec(
            name="boundary search",
            pillar=Pillar.MODEL,
            goal="a copy that decides as the model does",
            access=Access.LABEL,
            auxiliary="unlabelled records that the model puts in different classes",
            reference="Lowd & Meek 2005; Tramèr et al. 2016, section 6",
            queries=self.queries,
        )

    def fit(self, target: LabelTarget, auxiliary: Batch, *, seed: int) -> Copy:
        """The copy; its probabilities are only right up to a temperature.

        `facts`: "points" on boundaries, and "unknowns". Raises `ConfigError` for too few queries,
        `DataError` where one class only is met, `UnsupportedError` for more than 4,000 unknowns.
        """
        unknowns = (math.prod(target.shape) + 1) * (target.classes - 1)
        if unknowns > _MOST:
            raise UnsupportedError(
                f"Not yet with {unknowns} unknowns (at most {_MOST}): learn a copy from labels."
            )
        labelled = max(2, min(len(auxiliary), int(_START * self.queries)))
        pairs = (self.queries - labelled) // self.bits
        if pairs < unknowns:
            raise ConfigError(
                f"Expected queries >= {math.ceil((unknowns * self.bits + 1) / (1 - _START))} for "
                f"{unknowns} unknowns, got queries={self.queries}. Learn a copy with fewer."
            )
        before, rng = target.queries, seeded(seed, 127)
        own = auxiliary[rng.permutation(len(auxiliary))[:labelled]]
        labels = target.predict_label(own)
        if len(np.unique(labels)) < 2:
            raise DataError(
                "Expected records that the model puts in two or more classes, got one class. "
                "Give other records."
            )
        centre, scale = gauge(own)
        flat = (own.reshape(len(own), -1) - centre) / scale
        points, left, right = self._boundaries(target, flat, labels, pairs, centre, scale, rng)
        theta = _null_vector(points, left, right, target.classes)
        votes = np.concatenate([flat, np.ones((len(flat), 1))], axis=1) @ theta
        if (votes.argmax(axis=1) == labels).sum() < (votes.argmin(axis=1) == labels).sum():
            theta = -theta
        weights = theta[:-1] / scale[:, None]
        rule = LinearRule(weights=weights, biases=theta[-1] - centre @ weights)
        return Copy(
            method=self.spec.name,
            predict=rule,
            queries=target.queries - before,
            facts={"points": len(points), "unknowns": unknowns},
        )

    def _boundaries(
        self,
        target: LabelTarget,
        flat: NDArray[np.float64],
        labels: NDArray[np.int64],
        pairs: int,
        centre: NDArray[np.float64],
        scale: NDArray[np.float64],
        rng: np.random.Generator,
    ) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
        """Points (pairs, d) and the two classes that meet at each."""
        first = rng.integers(len(flat), size=pairs)
        second = np.empty_like(first)
        for label in np.unique(labels):
            mine = labels[first] == label
            second[mine] = rng.choice(np.flatnonzero(labels != label), int(mine.sum()))
        near, far = flat[first], flat[second]
        left, right = labels[first].copy(), labels[second].copy()
        for _bit in range(self.bits):
            middle = (near + far) / 2
            x = (middle * scale + centre).astype(np.float32)
            found = target.predict_label(x.reshape(len(x), *target.shape))
            same = found == left
            near = np.where(same[:, None], middle, near)
            far = np.where(same[:, None], far, middle)
            right = np.where(same, right, found)
        return (near + far) / 2, left, right


def _null_vector(
    points: NDArray[np.float64],
    left: NDArray[np.int64],
    right: NDArray[np.int64],
    classes: int,
) -> NDArray[np.float64]:
    """theta (d + 1, C) of norm 1 with the least sum of squared boundary equations."""
    extended = np.concatenate([points, np.ones((len(points), 1))], axis=1)
    # An orthonormal basis of vectors that sum to 0 over the classes.
    basis = np.linalg.svd(np.eye(classes) - 1 / classes)[0][:, : classes - 1]
    apart = basis[left] - basis[right]
    equations = (extended[:, :, None] * apart[:, None, :]).reshape(len(points), -1)
    _values, vectors = np.linalg.eigh(equations.T @ equations)
    return np.asarray(vectors[:, 0].reshape(extended.shape[1], classes - 1) @ basis.T)
