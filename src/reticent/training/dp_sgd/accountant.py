"""What a run of DP-SGD costs: epsilon from dp-accounting's privacy loss distributions.

The number reported is `PLDAccountant` at a discretisation of 1e-4, or 1e-3 for truncated batches
and for users, whose distributions take seconds to make; a certified upper bound either way
(connect-the-dots, Doroshenko et al. 2022). Renyi accounting is what a ledger is charged, and the
cross-check: it is looser, so an answer below the other would be a defect. The central-limit ("GDP")
approximation isn't used: it understates epsilon by up to a factor of five where noise and sampling
probability are small.
"""

from __future__ import annotations

import functools
import importlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from scipy import optimize

from reticent.errors import ConfigError, MissingExtraError, ReticentError
from reticent.training.dp_sgd.mixture import renyi_of_users

_REPORTED, _COARSE = 1e-4, 1e-3
_MOST_LOG_NOISE = 14.0


@dataclass(frozen=True, kw_only=True)
class Mechanism:
    """What was done: `steps` noisy clipped sums; neighbours differ in one record or user.

    `noise_multiplier` is the noise's standard deviation over the clip norm. With
    `sampling_probability`, every step drew its own Poisson sample of `examples` rows, truncated to
    `capacity`. Without, the batches came in any other way: every step that a record takes part in
    is charged in full, so `steps` counts the passes over the data. `records_per_user` above 1 is
    user-level privacy, with contributions bounded to that many records.
    """

    noise_multiplier: float
    steps: int
    sampling_probability: float | None = None
    examples: int | None = None
    capacity: int | None = None
    records_per_user: int = 1

    def __post_init__(self) -> None:
        probability = self.sampling_probability
        if not (
            0 < self.noise_multiplier < math.inf
            and self.steps >= 1
            and (probability is None or 0 < probability <= 1)
            and (self.capacity is None) == (self.examples is None)
            and self.records_per_user >= 1
        ):
            raise ConfigError(
                "Expected noise_multiplier > 0, steps >= 1, sampling_probability in (0, 1], "
                f"capacity and examples together, records_per_user >= 1, got {self}."
            )


def event(mechanism: Mechanism) -> Any:
    """The mechanism as a `dp_accounting.DpEvent`.

    Truncation has an event for records only: users with several records need room for everybody
    drawn, which is why their capacity may not bind.
    """
    accounting = _accounting()
    one = accounting.GaussianDpEvent(mechanism.noise_multiplier)
    q = mechanism.sampling_probability
    if mechanism.records_per_user > 1:
        one = _grouped(mechanism, accounting)
    elif q is not None and mechanism.capacity is not None and mechanism.examples is not None:
        one = accounting.TruncatedSubsampledGaussianDpEvent(
            dataset_size=mechanism.examples,
            sampling_probability=q,
            truncated_batch_size=mechanism.capacity,
            noise_multiplier=mechanism.noise_multiplier,
        )
    elif q is not None:
        one = accounting.PoissonSampledDpEvent(q, one)
    return accounting.SelfComposedDpEvent(one, mechanism.steps)


def _grouped(mechanism: Mechanism, accounting: Any) -> Any:
    """k records of one user: a binomial number of them moves the sum, each by at most C."""
    count, q = mechanism.records_per_user, mechanism.sampling_probability
    if q is None:
        return accounting.GaussianDpEvent(mechanism.noise_multiplier / count)
    if mechanism.capacity is not None and mechanism.capacity != mechanism.examples:
        raise ConfigError(
            "Expected no truncation for user-level privacy, got "
            f"capacity={mechanism.capacity} of examples={mechanism.examples}. "
            "Set the sampling's capacity to the number of examples."
        )
    odds = [math.comb(count, k) * q**k * (1 - q) ** (count - k) for k in range(count + 1)]
    total = math.fsum(odds)
    return importlib.import_module("dp_accounting.dp_event").MixtureOfGaussiansDpEvent(
        standard_deviation=mechanism.noise_multiplier,
        sensitivities=list(range(count + 1)),
        sampling_probs=[value / total for value in odds],
    )


def epsilon(mechanism: Mechanism, delta: float) -> float:
    """The epsilon reported at `delta`, under adding or removing one record (or user).

    Raises `ReticentError` when it exceeds the Renyi bound: one of the two must be wrong.
    """
    _check_delta(delta)
    found = _pld(mechanism, delta, _interval(mechanism))
    # The Renyi bound knows no truncation, which can only raise epsilon.
    looser = renyi_epsilon(mechanism, delta) if mechanism.capacity is None else math.inf
    if found > looser * (1 + 1e-3) + 1e-3:
        raise ReticentError(
            f"Two accountants disagree on {mechanism}: {found} by privacy loss distributions, "
            f"{looser} by Renyi divergences. Report this; don't train."
        )
    return found


def curve(mechanism: Mechanism, deltas: tuple[float, ...]) -> tuple[float, ...]:
    """Epsilon at each delta, from one composition."""
    for delta in deltas:
        _check_delta(delta)
    accountant = _composed(mechanism, _interval(mechanism))
    return tuple(float(accountant.get_epsilon(delta)) for delta in deltas)


def renyi_epsilon(mechanism: Mechanism, delta: float) -> float:
    """The looser bound by Renyi divergences (Mironov 2017), without truncation.

    Infinite where dp-accounting has no Renyi analysis (mixtures for users).
    """
    _check_delta(delta)
    rdp = importlib.import_module("dp_accounting.rdp") if _accounting() else None
    # Whole orders are finite sums; the series between them needn't converge.
    orders = [*(float(x) for x in range(2, 65)), 80.0, 96.0]
    orders += [float(2**x) for x in range(7, 12)]
    accountant = rdp.RdpAccountant(orders) if rdp is not None else None
    plain = Mechanism(
        noise_multiplier=mechanism.noise_multiplier,
        steps=mechanism.steps,
        sampling_probability=mechanism.sampling_probability,
        records_per_user=mechanism.records_per_user,
    )
    made = event(plain)
    if accountant is None or not accountant.supports(made):
        return math.inf
    accountant.compose(made)
    return float(accountant.get_epsilon(delta))


def renyi_curve(mechanism: Mechanism, orders: Sequence[float]) -> tuple[float, ...]:
    """The Renyi divergence between neighbours' outputs, in nats, at most, at each order.

    Mironov, Talwar and Zhang 2019, section 3.3: for Poisson sampling, both directions; for users
    by `mixture`. Infinite for truncated batches, which have no Renyi analysis.
    """
    _accounting()
    probability = mechanism.sampling_probability
    if mechanism.records_per_user > 1 and probability is not None:
        event(mechanism)  # refuses truncation
        one = renyi_of_users(
            noise_multiplier=mechanism.noise_multiplier,
            probability=probability,
            records_per_user=mechanism.records_per_user,
            orders=orders,
        )
        return tuple(mechanism.steps * (value * (1 + 1e-9) + 1e-12) for value in one)
    accountant = importlib.import_module("dp_accounting.rdp").RdpAccountant(list(orders))
    made = event(mechanism)
    if not accountant.supports(made):
        return (math.inf,) * len(orders)
    accountant.compose(made)
    # Its series end below e^-30 of their sum, and each step's logarithm is rounded.
    lost = [1e-13 * mechanism.steps / (order - 1) for order in orders]
    return tuple(
        float(value) * (1 + 1e-9) + rounding
        for value, rounding in zip(accountant.rdp, lost, strict=True)
    )


@functools.lru_cache(maxsize=64)
def calibrate(
    target: float, delta: float, *, mechanism: Mechanism, tolerance: float = 1e-3
) -> Mechanism:
    """`mechanism` with the least noise multiplier, within `tolerance`, that keeps `target`.

    Found by a root search on a coarse distribution without truncation; the result is then checked
    with the accountant that reports, and raised until it holds.
    """
    _check_delta(delta)
    if not 0 < target < math.inf:
        raise ConfigError(f"Expected a target epsilon > 0, got target={target}.")

    def spent(noise: float, *, interval: float = _COARSE, whole: bool = False) -> float:
        return _pld(_with(mechanism, noise, whole), delta, interval)

    def excess(log_noise: float) -> float:
        return math.log(max(spent(math.exp(log_noise)), 1e-12) / target)

    low = high = 0.0
    while excess(high) > 0:
        low, high = high, high + 1.0
        if high > _MOST_LOG_NOISE:
            raise ConfigError(f"No noise keeps epsilon={target} at delta={delta}.")
    while low == high or excess(low) <= 0:
        low, high = low - 0.7, min(high, low)
        if low < -4:
            raise ConfigError(f"Expected a target that needs noise, got epsilon={target}.")
    found = optimize.brentq(excess, low, high, xtol=tolerance / 4, rtol=1e-9)
    high = math.exp(found + tolerance / 4)
    reported = _interval(mechanism)
    while spent(high, interval=reported, whole=True) > target:
        high *= 1 + tolerance / 2
        if high > math.exp(_MOST_LOG_NOISE):
            raise ConfigError(
                f"No noise keeps epsilon={target}: capacity={mechanism.capacity} cuts too many "
                "batches. Raise the capacity."
            )
    return _with(mechanism, high, whole=True)


def _with(mechanism: Mechanism, noise: float, whole: bool) -> Mechanism:
    return Mechanism(
        noise_multiplier=noise,
        steps=mechanism.steps,
        sampling_probability=mechanism.sampling_probability,
        examples=mechanism.examples if whole else None,
        capacity=mechanism.capacity if whole else None,
        records_per_user=mechanism.records_per_user,
    )


def _interval(mechanism: Mechanism) -> float:
    slow = mechanism.capacity is not None or mechanism.records_per_user > 1
    return _COARSE if slow else _REPORTED


def _pld(mechanism: Mechanism, delta: float, interval: float) -> float:
    return float(_composed(mechanism, interval).get_epsilon(delta))


def _composed(mechanism: Mechanism, interval: float) -> Any:
    _accounting()
    pld = importlib.import_module("dp_accounting.pld")
    accountant = pld.PLDAccountant(value_discretization_interval=interval)
    accountant.compose(event(mechanism))
    return accountant


def _accounting() -> Any:
    try:
        return importlib.import_module("dp_accounting")
    except ImportError as error:
        raise MissingExtraError("dp-accounting", "dp") from error


def _check_delta(delta: float) -> None:
    if not 0 < delta < 1:
        raise ConfigError(f"Expected 0 < delta < 1, got delta={delta}.")
