"""What noise around prototypes provably bounds, on average and in the worst case.

Z = f(x) + N(0, sigma**2 I) and c the prototype nearest to f(x), whose label the client itself
computes. For any attribute S and any attacker, the accuracy from Z exceeds the accuracy from the
label by at most the total variation between N(f, sigma**2) and N(c, sigma**2), averaged over the
population: tau = E[2 Phi(||f - c|| / 2 sigma) - 1]; and I(S; Z | label) <= E||f - c||**2 / 2
sigma**2 nats (N(c, sigma**2) is a reference that depends on the label only). A radius turns both
into bounds for every single input.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf, erfinv

from reticent.inference.split.release import Noisy, nearest


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """Average-case bounds with upper confidence limits, on held-out records.

    `tau` and `nats` are means; `tau_limit` the upper confidence limit of tau (empirical
    Bernstein, so valid at any n), taken over plain accuracy and over balanced accuracy for each
    attribute named at certification; `worst_tau` and `worst_nats` hold for every input (1 and
    infinity without a radius). The limit assumes records that are independent of each other and
    of the choice of the encoder; `n` windows of a few people are worth less than `n`.
    """

    tau: float
    tau_limit: float
    nats: float
    worst_tau: float
    worst_nats: float
    confidence: float
    n: int

    def to_json(self) -> dict[str, float | None]:
        """A JSON object; an infinite bound is null."""
        return {k: (v if math.isfinite(v) else None) for k, v in asdict(self).items()}


def certify(
    features: NDArray[np.float32],
    release: Noisy,
    *,
    attributes: Mapping[str, NDArray[np.int64]] | None = None,
    confidence: float = 0.95,
) -> Certificate:
    """The certificate of a Gaussian release on clean held-out features (n, d).

    Attributes widen `tau_limit` to balanced accuracy: its excess is at most the mean over the
    attribute's values of tau within that value.
    """
    if release.prototypes is None or release.shape != "gaussian":
        raise ValueError("Expected a Gaussian release with prototypes; there is none to certify.")
    kept = release.contract(features)
    away = kept - release.prototypes[nearest(kept, release.prototypes)]
    distance = np.linalg.norm(away.astype(np.float64) / release.scale, axis=1)
    tau = erf(distance / (2 * math.sqrt(2)))
    columns = list((attributes or {}).values())
    failure = (1 - confidence) / (1 + sum(len(np.unique(values)) for values in columns))
    limits = [bernstein_limit(tau, failure=failure)]
    for values in columns:
        within = [
            bernstein_limit(tau[values == value], failure=failure) for value in np.unique(values)
        ]
        # Balanced accuracy weighs each value of the attribute alike.
        limits.append(float(np.mean(within)))
    worst = math.inf if release.radius is None else release.radius / release.sigma
    worst_tau = math.erf(worst / (2 * math.sqrt(2)))
    return Certificate(
        tau=float(tau.mean()),
        tau_limit=min(max(limits), worst_tau),
        nats=float((distance**2 / 2).mean()),
        worst_tau=worst_tau,
        worst_nats=worst**2 / 2,
        confidence=confidence,
        n=len(features),
    )


def bernstein_limit(values: NDArray[np.float64], *, failure: float) -> float:
    """Upper confidence limit of the mean of [0, 1] values (Maurer & Pontil 2009, Theorem 4)."""
    n = len(values)
    if n < 2:
        return 1.0
    log_term = math.log(2 / failure)
    variance = float(np.var(values, ddof=1))
    width = math.sqrt(2 * variance * log_term / n) + 7 * log_term / (3 * (n - 1))
    return min(1.0, float(values.mean()) + width)


def radius_for(total_variation: float, *, sigma: float, requests: int = 1) -> float:
    """The radius at which `requests` pooled requests stay within `total_variation`.

    Solves 2 Phi(sqrt(m) r / 2 sigma) - 1 = tau for r. Raises `ValueError` outside 0 < tau < 1.
    """
    if not (0 < total_variation < 1 and sigma > 0 and requests >= 1):
        raise ValueError(
            "Expected 0 < total_variation < 1, sigma > 0 and requests >= 1, got "
            f"total_variation={total_variation}, sigma={sigma}, requests={requests}."
        )
    return float(2 * math.sqrt(2) * sigma * erfinv(total_variation) / math.sqrt(requests))
