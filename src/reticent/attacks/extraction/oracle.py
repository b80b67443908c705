"""The target in normalised coordinates, and orthogonal directions to ask it in."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from reticent.attacks.extraction.copy import Batch, LinearRule, gauge
from reticent.attacks.target import ScoreTarget
from reticent.random import seeded

Real = NDArray[np.float64]


class Oracle:
    """A target asked at u = (x - centre) / scale of the features; it remembers all answers."""

    def __init__(self, target: ScoreTarget, auxiliary: Batch) -> None:
        self.target = target
        centre, self.scale = gauge(auxiliary)
        # The target reads float32: what it reads is what the equations must hold.
        self.centre = centre.astype(np.float32).astype(np.float64)
        self._points: list[Real] = []
        self._answers: list[Real] = []

    def ask(self, points: Real) -> tuple[Real, Real]:
        """The points (n, d) as the target read them, and its log-probabilities (n, C)."""
        x = (self.centre + points * self.scale).astype(np.float32)
        answers = self.target.predict_scores(x.reshape(len(x), *self.target.shape))
        read = (x.astype(np.float64) - self.centre) / self.scale
        self._points.append(read)
        self._answers.append(answers)
        return read, answers

    @property
    def points(self) -> Real:
        """All points so far, (q, d)."""
        return np.concatenate(self._points)

    @property
    def answers(self) -> Real:
        """All answers so far, (q, C) log-probabilities."""
        return np.concatenate(self._answers)

    def rule(self, theta: Real) -> LinearRule:
        """The rule on records of `theta` (d + 1, C), weights above the biases."""
        weights = theta[:-1] / self.scale[:, None]
        biases = theta[-1] - self.centre @ weights
        return LinearRule(weights=centred(weights), biases=biases - biases.mean())


class Design:
    """Rows of sqrt(d) times an orthogonal matrix: a cosine transform, shuffled, signs flipped."""

    def __init__(self, width: int, seed: int) -> None:
        rng = seeded(seed, 109)
        self.width = width
        self.order = rng.permutation(width)
        self.signs = rng.choice([-1.0, 1.0], size=width)

    def rows(self, start: int, stop: int) -> Real:
        """Rows start..stop-1 of the d, shape (rows, d); entries have root mean square 1."""
        frequency = self.order[start:stop, None]
        angle = math.pi * (2 * np.arange(self.width) + 1) * frequency / (2 * self.width)
        size = np.where(frequency == 0, 1.0, math.sqrt(2.0))
        return np.asarray(size * np.cos(angle) * self.signs)

    def solve(self, values: Real) -> Real:
        """W (d, C) with rows @ W = values (d, C), in O(d log d) a column."""
        by_frequency = np.empty_like(values)
        by_frequency[self.order] = values
        found = fft.idct(by_frequency / math.sqrt(self.width), axis=0, norm="ortho")
        return np.asarray(found * self.signs[:, None])


def centred(logits: Real) -> Real:
    """Rows that sum to 0: what is left of logits when a constant per row is unknown."""
    return np.asarray(logits - logits.mean(axis=1, keepdims=True))
