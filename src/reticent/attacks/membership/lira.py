"""The likelihood-ratio attack, online and offline, from moments of the reference margins.

Carlini et al. 2022, "Membership Inference Attacks From First Principles", Algorithm 1 and
section VI.C (one variance for all records where references are few).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from reticent.attacks.membership.signals import Moments, References, Signals
from reticent.attacks.spec import Scores
from reticent.errors import DataError

FEW = 64
"""Below this number of references a variance per record is too noisy; one is pooled."""

_LEAST = 1e-6
OUT, IN = 0, 1


def lira_online(target: Signals, references: References, *, pooled: bool | None = None) -> Scores:
    """log N(margin; records' IN moments) - log N(margin; OUT moments), (n,).

    `pooled` (default: below `FEW` references) takes one standard deviation per side, the root mean
    square deviation from each record's own mean. A record that no reference trained with (or all
    did) gets its missing mean from the other side, moved by the mean shift over all records; a
    standard deviation of fewer than two values is the pooled one. Raises `DataError` where no
    record has both sides.
    """
    moments = references.moments
    mean = _filled(moments)
    spread = _spread(moments, pooled=len(references) < FEW if pooled is None else pooled)
    inside = _log_normal(target.candidates, mean[IN], spread[IN])
    return np.asarray(inside - _log_normal(target.candidates, mean[OUT], spread[OUT]))


def lira_offline(target: Signals, references: References, *, pooled: bool | None = None) -> Scores:
    """How many OUT standard deviations the margin lies above the OUT mean, (n,).

    The paper's score is the normal distribution function of this number: the same order, but it
    saturates at 1 where the strongest members are.
    """
    moments = references.moments
    mean = _filled(moments)
    spread = _spread(moments, pooled=len(references) < FEW if pooled is None else pooled)
    return np.asarray((target.candidates - mean[OUT]) / spread[OUT])


def _filled(moments: Moments) -> NDArray[np.float64]:
    both = (moments.count > 0).all(axis=0)
    if not both.any():
        raise DataError(
            "Expected records with references trained with and without them, got none. Train more "
            "shadow models."
        )
    mean = moments.mean.copy()
    shift = float((mean[IN, both] - mean[OUT, both]).mean())
    mean[IN] = np.where(moments.count[IN] > 0, mean[IN], moments.mean[OUT] + shift)
    mean[OUT] = np.where(moments.count[OUT] > 0, mean[OUT], moments.mean[IN] - shift)
    return mean


def _spread(moments: Moments, *, pooled: bool) -> NDArray[np.float64]:
    common = np.sqrt(moments.squares.sum(axis=1) / moments.count.sum(axis=1))
    # A pair of references per record leaves no deviation on either side: then any scale will do.
    common = np.where(common > 0, common, max(float(common.max()), 1.0))[:, None]
    if pooled:
        return np.broadcast_to(common, moments.count.shape)
    own = np.sqrt(moments.squares / np.maximum(moments.count, 1))
    return np.where(moments.count > 1, np.maximum(own, _LEAST * common), common)


def _log_normal(
    values: NDArray[np.float64], mean: NDArray[np.float64], spread: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The log-density without its constant."""
    return np.asarray(-0.5 * ((values - mean) / spread) ** 2 - np.log(spread))
