"""Calibrated log-posteriors: an overconfident attacker loses when it pools."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

_TEMPERATURES = 2.0 ** np.arange(-2.0, 4.01, 0.25)
_DOUBTS = (1e-4, 1e-3, 0.01, 0.03, 0.1, 0.3)


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """`temperature` divides log-scores; `doubt` is the share of the uniform mixed in afterwards.

    Temperature alone can't change which value a sum of log-posteriors favours; doubt can: it
    bounds how much one wrong but certain record counts against the others.
    """

    temperature: float
    doubt: float

    def apply(self, scores: NDArray[np.floating]) -> NDArray[np.float64]:
        """Normalised log-posteriors (n, k) from log-scores (n, k)."""
        scaled = np.asarray(scores, dtype=np.float64) / self.temperature
        posterior = np.exp(scaled - logsumexp(scaled, axis=1, keepdims=True))
        return np.asarray(np.log((1 - self.doubt) * posterior + self.doubt / scores.shape[1]))


def calibrate(scores: NDArray[np.floating], target: NDArray[np.int64]) -> Calibration:
    """The calibration with the least class-balanced log-loss on validation records."""
    best = (np.inf, Calibration(temperature=1.0, doubt=_DOUBTS[0]))
    for temperature in _TEMPERATURES:
        for doubt in _DOUBTS:
            candidate = Calibration(temperature=float(temperature), doubt=doubt)
            loss = balanced_log_loss(candidate.apply(scores), target)
            if loss < best[0]:
                best = (loss, candidate)
    return best[1]


def balanced_log_loss(log_posteriors: NDArray[np.float64], target: NDArray[np.int64]) -> float:
    """Mean over the values that occur of the mean log-loss in nats on records of that value."""
    losses = -log_posteriors[np.arange(len(target)), target]
    return float(np.mean([losses[target == value].mean() for value in np.unique(target)]))


def balanced_accuracy(scores: NDArray[np.floating], target: NDArray[np.int64]) -> float:
    """Mean recall of the most likely value over the values that occur."""
    hits = scores.argmax(axis=1) == target
    return float(np.mean([hits[target == value].mean() for value in np.unique(target)]))
