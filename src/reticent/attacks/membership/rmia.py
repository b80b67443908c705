"""The robust attack by pairwise ratios with population records, online and offline.

Zarifzadeh, Liu & Shokri 2024, "Low-Cost High-Power Membership Inference Attacks", equations 2-4
and Appendix B. A record's ratio is Pr(x | target) / Pr(x); its score is the share of population
records z whose own ratio it beats by the factor gamma. That share depends on the record only
through its ratio, so z sorted once serves all records, in O((n + z) log z) instead of n * z; and
among records that beat equally many (at the top: all) the ratio itself decides.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from reticent.attacks.membership.signals import References, Signals
from reticent.attacks.spec import Scores

GAMMA = 2.0
OFFLINE_A = 0.3
"""The paper's line from OUT to IN confidence, p_in = a p_out + 1 - a, where nothing better."""


def rmia_online(target: Signals, references: References, *, gamma: float = GAMMA) -> Scores:
    """The score with Pr(x) = (mean IN confidence + mean OUT confidence) / 2, (n,) in [0, 1)."""
    return _score(target, references, _online_prior(references), gamma)


def log_ratio(target: Signals, references: References) -> NDArray[np.float64]:
    """log Pr(x | target) - log Pr(x) with the online Pr(x), (n,): `rmia_online` orders by it."""
    own = target.log_confidence[: target.pool]
    return np.asarray(own - np.log(_online_prior(references)))


def rmia_offline(
    target: Signals,
    references: References,
    *,
    gamma: float = GAMMA,
    a: float | None = None,
) -> Scores:
    """The score with the IN confidence guessed from OUT references: p_in = a p_out + 1 - a, (n,).

    Without `a` it is the least-squares line over the records that have both sides (one number from
    the attacker's own models, not from this record's).
    """
    outside, inside = references.confidences
    slope = offline_slope(references) if a is None else a
    outside = np.where(np.isnan(outside), inside, outside)
    return _score(target, references, 0.5 * ((1 + slope) * outside + 1 - slope), gamma)


def offline_slope(references: References) -> float:
    """The a in [0, 1] of p_in = a p_out + 1 - a by least squares, or the paper's."""
    outside, inside = references.confidences
    both = ~np.isnan(outside) & ~np.isnan(inside)
    doubt = 1 - outside[both]
    below = float(doubt @ doubt)
    if below <= 0:
        return OFFLINE_A
    return float(np.clip(doubt @ (1 - inside[both]) / below, 0.0, 1.0))


def beaten_share(ratio: NDArray[np.float64], population: NDArray[np.float64]) -> Scores:
    """For each log-ratio (n,), how many of the population's log-ratios (z,) it reaches, over z.

    Ties are broken by the log-ratio itself, with less than one population record's weight: the
    whole part of score * z is the count.
    """
    reached = np.searchsorted(np.sort(population), ratio, side="right")
    return np.asarray((reached + 0.5 + np.arctan(ratio) / np.pi) / (len(population) + 1))


def _score(
    target: Signals, references: References, prior: NDArray[np.float64], gamma: float
) -> Scores:
    n = target.pool
    ratio = target.log_confidence[:n] - np.log(prior)
    if target.log_confidence.shape[-1] == n:
        # No population: the candidates themselves stand in, and the score is a rank among them.
        return beaten_share(ratio - np.log(gamma), ratio)
    logs = references.signals.log_confidence[:, n:].astype(np.float32)
    average = np.exp(logs).mean(axis=0, dtype=np.float64)
    population = target.log_confidence[n:] - np.log(average)
    return beaten_share(ratio - np.log(gamma), population)


def _online_prior(references: References) -> NDArray[np.float64]:
    outside, inside = references.confidences
    outside = np.where(np.isnan(outside), inside, outside)
    inside = np.where(np.isnan(inside), OFFLINE_A * outside + 1 - OFFLINE_A, inside)
    return np.asarray(0.5 * (inside + outside))
