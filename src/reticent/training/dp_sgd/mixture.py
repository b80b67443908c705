"""Renyi divergences of users with several records: one Gaussian against a mixture of them.

A user's k records each enter the batch by their own coin, so that a binomial number of clipped
gradients moves the sum: the worst case is a mixture of Gaussians at 0, ..., k on the line, in both
directions (Choquette-Choo et al. 2024, arXiv 2310.15526). Both divergences are integrals
over the line. Their integrands are sums of Gaussians, or log-concave and at most as wide as one, so
that the trapezoidal rule converges exponentially fast.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

Points = NDArray[np.float64]
_REACH, _PER_WIDTH = 14.0, 8.0


def renyi_of_users(
    *, noise_multiplier: float, probability: float, records_per_user: int, orders: Sequence[float]
) -> tuple[float, ...]:
    """The larger divergence of both directions of one step, in nats, at each order above 1."""
    count = np.arange(records_per_user + 1)
    log_odds = (
        special.gammaln(records_per_user + 1)
        - special.gammaln(count + 1)
        - special.gammaln(records_per_user - count + 1)
        + special.xlogy(count, probability)
        + special.xlog1py(records_per_user - count, -probability)
    )
    scale = noise_multiplier

    def log_ratio(x: Points) -> Points:
        """Logarithm of mixture over Gaussian, at each point."""
        moved = (count * x[:, None] - count**2 / 2) / scale**2
        made: Points = special.logsumexp(log_odds + moved, axis=1)
        return made

    return tuple(
        max(
            _log_integral(log_ratio, power, order, scale, records_per_user) / (order - 1)
            for power in (order, 1 - order)
        )
        for order in orders
    )


def _log_integral(
    log_ratio: Callable[[Points], Points], power: float, order: float, scale: float, count: int
) -> float:
    """log E[ratio^power] under the Gaussian."""

    def exponent(x: Points) -> Points:
        return power * log_ratio(x) - (x / scale) ** 2 / 2

    reach, step = _REACH * scale, scale / _PER_WIDTH
    if power > 0:
        # Gaussians of the noise's width, centred at 0, ..., order times count.
        low, high = -reach, order * count + reach
    else:
        # Log-concave, its curvature between that of the Gaussian and what the coins can add.
        found = optimize.minimize_scalar(
            lambda x: -float(exponent(np.array([x]))[0]),
            bounds=((1 - order) * count - reach, reach),
            method="bounded",
        )
        low, high = float(found.x) - reach, float(found.x) + reach
        step /= math.sqrt(1 + (order - 1) * (count / scale) ** 2 / 4)
    x = np.linspace(low, high, math.ceil((high - low) / step) + 1)
    spacing = x[1] - x[0]
    total = float(special.logsumexp(exponent(x)))
    return total + math.log(spacing / (scale * math.sqrt(2 * math.pi)))
