"""What one mechanism costs: its Rényi curve on a fixed grid of orders, and a delta of its own.

Costs are whole numbers of small units, rounded up. Sums are therefore exact: no order of charges
and no number of them can lose a crumb of budget to floating point.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from reticent.errors import ConfigError

ORDERS: tuple[float, ...] = (
    *(1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 10.0, 12.0, 14.0, 16.0),
    *(20.0, 24.0, 28.0, 32.0, 40.0, 48.0, 64.0, 96.0, 128.0, 192.0, 256.0, 512.0, 1024.0),
)
"""Orders of the Rényi divergence; the order infinity (pure DP) is kept beside them."""

EPSILON_UNIT = Fraction(1, 10**12)
DELTA_UNIT = Fraction(1, 10**24)
# The relative error of a double's logarithms and exponentials is far below this.
_SLACK = 1e-12


@dataclass(frozen=True, kw_only=True)
class Cost:
    """A bound on what one mechanism, or several together, give away about one unit.

    `curve[i]` bounds the Rényi divergence of order `ORDERS[i]` between the outputs on any two
    neighbours, in nats, as a multiple of `EPSILON_UNIT`; None is infinity. `pure` bounds it at
    order infinity. `delta` (multiple of `DELTA_UNIT`) is the probability outside which these
    bounds hold: "delta-approximate" Rényi DP (Bun & Steinke 2016, section 8).
    """

    curve: tuple[int | None, ...]
    pure: int | None
    delta: int = 0

    def __post_init__(self) -> None:
        whole = (*self.curve, self.pure, self.delta)
        if (
            len(self.curve) != len(ORDERS)
            or self.delta is None
            or any(item is not None and (type(item) is not int or item < 0) for item in whole)
        ):
            raise ConfigError(
                f"Expected {len(ORDERS)} orders and no negative cost, got curve={self.curve}, "
                f"pure={self.pure}, delta={self.delta}. Make costs with gaussian(), pure_dp(), "
                "approximate_dp(), zcdp() or rdp()."
            )

    def __add__(self, other: Cost) -> Cost:
        """Both mechanisms together: Rényi divergences add (Mironov 2017, proposition 1)."""
        return Cost(
            curve=tuple(_add(a, b) for a, b in zip(self.curve, other.curve, strict=True)),
            pure=_add(self.pure, other.pure),
            delta=self.delta + other.delta,
        )

    def to_json(self) -> dict[str, Any]:
        """The cost as JSON holds it; `from_json` reads it back exactly."""
        return {"curve": list(self.curve), "pure": self.pure, "delta": self.delta}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Cost:
        """The cost that `to_json` wrote."""
        return cls(curve=tuple(record["curve"]), pure=record["pure"], delta=record["delta"])


FREE = Cost(curve=(0,) * len(ORDERS), pure=0)


def gaussian(*, noise_multiplier: float, count: int = 1) -> Cost:
    """`count` Gaussian mechanisms, noise `noise_multiplier` sensitivities: alpha / (2 sigma^2).

    Mironov 2017, proposition 7. Raises `ConfigError` unless `noise_multiplier` > 0, `count` >= 1.
    """
    _positive(noise_multiplier=noise_multiplier, count=count)
    return zcdp(rho=count / (2 * noise_multiplier**2))


def zcdp(*, rho: float) -> Cost:
    """rho-zero-concentrated DP: at most rho alpha at every order (Bun & Steinke 2016, def. 1.1)."""
    _positive(rho=rho)
    return Cost(curve=tuple(_up(rho * order) for order in ORDERS), pure=None)


def pure_dp(*, epsilon: float) -> Cost:
    """epsilon-DP: the Rényi curve of randomised response, which dominates all epsilon-DP.

    Kairouz, Oh & Viswanath 2015, theorem 3.1: every epsilon-DP mechanism is a post-processing of
    randomised response, so no tighter curve holds for all of them. `ConfigError` unless
    0 < epsilon < infinity.
    """
    return approximate_dp(epsilon=epsilon, delta=0.0)


def approximate_dp(*, epsilon: float, delta: float) -> Cost:
    """(epsilon, delta)-DP: pure epsilon-DP except with probability delta.

    Kairouz, Oh & Viswanath 2015, theorem 3.1: such a mechanism is a post-processing of one that,
    with probability delta, tells everything, else answers by epsilon-randomised response. At
    order infinity sums are the basic composition of epsilons and deltas. `ConfigError` unless
    0 < epsilon < infinity and 0 <= delta < 1.
    """
    _positive(epsilon=epsilon)
    if not 0 <= delta < 1:
        raise ConfigError(f"Expected 0 <= delta < 1, got delta={delta}. Try delta=1e-6.")
    curve = tuple(_up(_randomised_response(order, epsilon)) for order in ORDERS)
    # Epsilon itself is exact: basic composition may fill a cap to the brim.
    return Cost(curve=curve, pure=_whole(epsilon, EPSILON_UNIT), delta=_whole(delta, DELTA_UNIT))


def rdp(orders: Sequence[float], values: Sequence[float], *, delta: float = 0.0) -> Cost:
    """A mechanism known by Rényi bounds `values` (nats) at `orders`, as accountants give them.

    Rényi divergence does not fall with the order (van Erven & Harremoës 2014, theorem 3), so each
    order of the ledger's grid takes the bound at the next given order; above the last, infinity.
    `ConfigError` unless orders rise above 1 and values are no NaN and not negative.
    """
    pairs = list(zip(orders, values, strict=False))
    ordered = all(a < b for a, b in itertools.pairwise(orders))
    if len(orders) != len(values) or not pairs or not ordered or not orders[0] > 1:
        raise ConfigError(
            f"Expected as many values as orders, rising above 1, got orders={list(orders)[:4]}... "
            f"({len(orders)}) and {len(values)} values. Sort the orders."
        )
    if not all(value >= 0 for value in values):
        raise ConfigError(f"Expected values >= 0 and not NaN, got values={list(values)[:4]}...")
    if not 0 <= delta < 1:
        raise ConfigError(f"Expected 0 <= delta < 1, got delta={delta}. Try delta=0.")
    curve = tuple(
        _up(min((value for at, value in pairs if at >= order), default=math.inf))
        for order in ORDERS
    )
    last = float(values[-1]) if math.isinf(orders[-1]) else math.inf
    return Cost(curve=curve, pure=_up(last), delta=_whole(delta, DELTA_UNIT))


def _randomised_response(order: float, epsilon: float) -> float:
    """Rényi divergence of epsilon-randomised response, in nats (Mironov 2017, proposition 5).

    log(p^a q^(1-a) + q^a p^(1-a)) / (a - 1) with p = e^epsilon / (1 + e^epsilon) and q = 1 - p;
    never above epsilon, which cancellation at tiny epsilons could otherwise exceed.
    """
    log_q = -_softplus(epsilon)
    first = log_q + order * epsilon
    second = log_q + (1 - order) * epsilon
    total = first + math.log1p(math.exp(second - first))
    # For tiny epsilons the logarithm is a difference of near equals; add what that can lose.
    rounding = 8e-16 * (1 + order * epsilon)
    return min(epsilon, (max(total, 0.0) + rounding) / (order - 1))


def _softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def _up(value: float) -> int | None:
    if math.isinf(value):
        return None
    return math.ceil(Fraction(value * (1 + _SLACK)) / EPSILON_UNIT)


def _whole(value: float, unit: Fraction) -> int:
    """The decimal number that a user wrote, in whole units, rounded up."""
    return math.ceil(Fraction(str(float(value))) / unit)


def _add(a: int | None, b: int | None) -> int | None:
    return None if a is None or b is None else a + b


def _positive(**values: float) -> None:
    for name, value in values.items():
        if not 0 < value < math.inf:
            raise ConfigError(f"Expected 0 < {name} < infinity, got {name}={value}.")
