"""What noise around prototypes provably bounds, on average and in the worst case.

Z = f(x) + N(0, sigma**2 I) and c the prototype nearest to f(x), whose label the client itself
computes. For any attribute S and any attacker, the accuracy from Z exceeds the accuracy from the
label by at most the total variation between N(f, sigma**2) and N(c, sigma**2), averaged over the
population: tau = E[2 Phi(||f - c|| / 2 sigma) - 1]; and I(S; Z | label) <= E||f - c||**2 / 2
sigma**2 nats (N(c, sigma**2) is a reference that depends on the label only). A radius turns both
into bounds for every single input.

One person's records are one observation: with user ids, the averages are over users, each weighing
alike, and so are their confidence limits.
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

    `tau` and `nats` are means over `units` independent units (users, or records where there are
    none); `tau_limit` the upper confidence limit of tau (valid at any number of units), taken over
    plain accuracy and over balanced accuracy for each attribute named at certification;
    `worst_tau` and `worst_nats` hold for every input (1 and infinity without a radius). The limit
    assumes units that are independent of each other, and records that had no part in the choice of
    the encoder. `n` counts records.
    """

    tau: float
    tau_limit: float
    nats: float
    worst_tau: float
    worst_nats: float
    confidence: float
    n: int
    units: int

    def to_json(self) -> dict[str, float | None]:
        """A JSON object; an infinite bound is null."""
        return {k: (v if math.isfinite(v) else None) for k, v in asdict(self).items()}


def certify(
    features: NDArray[np.float32],
    release: Noisy,
    *,
    attributes: Mapping[str, NDArray[np.int64]] | None = None,
    users: NDArray[np.int64] | None = None,
    confidence: float = 0.95,
) -> Certificate:
    """The certificate of a Gaussian release on clean held-out features (n, d) of `users` (n,).

    Attributes widen `tau_limit` to balanced accuracy: its excess is at most the mean over the
    attribute's values of tau within that value. Of an attribute that tells every user apart that
    is the mean over users, which is limited already.
    """
    if release.prototypes is None or release.shape != "gaussian":
        raise ValueError("Expected a Gaussian release with prototypes; there is none to certify.")
    kept = release.contract(features)
    away = kept - release.prototypes[nearest(kept, release.prototypes)]
    distance = np.linalg.norm(away.astype(np.float64) / release.scale, axis=1)
    tau = erf(distance / (2 * math.sqrt(2)))
    nats = distance**2 / 2
    columns = [v for v in (attributes or {}).values() if users is None or not _is_name(v, users)]
    failure = (1 - confidence) / (1 + sum(len(np.unique(values)) for values in columns))
    limits = [_limit(tau, users, failure)]
    for values in columns:
        within = [
            _limit(tau[kept], None if users is None else users[kept], failure)
            for kept in (values == value for value in np.unique(values))
        ]
        # Balanced accuracy weighs each value of the attribute alike.
        limits.append(float(np.mean(within)))
    worst = math.inf if release.radius is None else release.radius / release.sigma
    worst_tau = math.erf(worst / (2 * math.sqrt(2)))
    return Certificate(
        tau=float(_of_units(tau, users).mean()),
        tau_limit=min(max(limits), worst_tau),
        nats=float(_of_units(nats, users).mean()),
        worst_tau=worst_tau,
        worst_nats=worst**2 / 2,
        confidence=confidence,
        n=len(features),
        units=len(_of_units(tau, users)),
    )


def _of_units(values: NDArray[np.float64], users: NDArray[np.int64] | None) -> NDArray[np.float64]:
    """One value per independent unit: a user's mean, or the records' own."""
    if users is None:
        return values
    owner = np.unique(users, return_inverse=True)[1]
    return np.asarray(np.bincount(owner, weights=values) / np.bincount(owner))


def _limit(values: NDArray[np.float64], users: NDArray[np.int64] | None, failure: float) -> float:
    """Upper confidence limit of the mean over units; by betting for users, who are few."""
    if users is None:
        return bernstein_limit(values, failure=failure)
    return betting_limit(_of_units(values, users), failure=failure)


def _is_name(values: NDArray[np.int64], users: NDArray[np.int64]) -> bool:
    """Whether each user has one value of the attribute, and each value one user."""
    pairs = len(np.unique(np.stack([values, users]), axis=1).T)
    return pairs == len(np.unique(users)) == len(np.unique(values))


def bernstein_limit(values: NDArray[np.float64], *, failure: float) -> float:
    """Upper confidence limit of the mean of [0, 1] values (Maurer & Pontil 2009, Theorem 4)."""
    n = len(values)
    if n < 2:
        return 1.0
    log_term = math.log(2 / failure)
    variance = float(np.var(values, ddof=1))
    width = math.sqrt(2 * variance * log_term / n) + 7 * log_term / (3 * (n - 1))
    return min(1.0, float(values.mean()) + width)


def betting_limit(values: NDArray[np.float64], *, failure: float) -> float:
    """Upper confidence limit of the mean of [0, 1] values by betting.

    Waudby-Smith & Ramdas 2024, section 4: whoever bets lambda_t, chosen before x_t is seen, that
    x_t falls below m multiplies a capital by 1 + lambda_t (m - x_t), whose expectation is at most
    1 where the mean is m or more; so the capital ever reaches 1 / failure with probability
    `failure` at most (Ville). The limit is the least m at which it does. The bets are theirs for a
    fixed n, capped at 0.95, and don't depend on m, so that the capital grows with m.
    """
    n = len(values)
    if n < 2:
        return 1.0
    log_term = math.log(1 / failure)
    counts = np.arange(1, n + 1)
    mean = (0.5 + np.cumsum(values)) / (counts + 1)
    variance = (0.25 + np.cumsum((values - mean) ** 2)) / (counts + 1)
    before = np.concatenate([[0.25], variance[:-1]])
    bets = np.minimum(0.95, np.sqrt(2 * log_term / (n * before)))
    low, high = float(values.mean()), 1.0
    if np.cumsum(np.log1p(bets * (high - values))).max() < log_term:
        return 1.0
    for _ in range(40):
        middle = (low + high) / 2
        capital = np.cumsum(np.log1p(bets * (middle - values))).max()
        low, high = (low, middle) if capital >= log_term else (middle, high)
    return high


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
