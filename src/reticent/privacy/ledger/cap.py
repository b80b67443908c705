"""What a block of records may give away in all: an (epsilon, delta) cap that admits or refuses.

**Claim.** Whatever mechanisms are run on a block, chosen one after another in the light of all
earlier outputs, each charged before it runs and admitted by `Cap.admits`, together they are
(epsilon, delta)-DP for one unit of the block.

**Why.** Write L for the privacy loss of the whole run, S(a) for the summed curve at order a, and
M(a) = exp((a - 1) (L - S(a))), whose mean is at most 1 however adaptively mechanisms and costs
are chosen (Feldman & Zrnic 2021, theorem 3.1; Lécuyer 2021). Canonne, Kamath & Steinke 2020,
proposition 12: (1 - e^(epsilon - L))+ <= c(a) e^((a - 1) (L - epsilon)) with
c(a) = (1 - 1/a)^a / (a - 1). A run is admitted up to a cost with S(a) <= limit(a) for *some* a;
which one may depend on the outputs, so each order is given its own share of delta and the shares
are added up: limit(a) solves c(a) e^((a - 1) (limit - epsilon)) = share(a). Runs that end with
S(infinity) <= epsilon have L <= epsilon for certain and need no share. The deltas that mechanisms
bring along add up beside this, out of a share of their own (`direct_delta`).

**Assumptions.** Each charge bounds its mechanism's true cost, for the block's unit and
neighbouring relation; outputs leave only after their charge; blocks hold disjoint units. The
shares are fixed when the cap is granted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

from reticent.errors import ConfigError
from reticent.privacy.ledger.cost import DELTA_UNIT, EPSILON_UNIT, ORDERS, Cost

_SLACK = 1e-12


@dataclass(frozen=True, kw_only=True)
class Cap:
    """(epsilon, delta), of which `direct_delta` is kept for mechanisms that bring a delta along.

    `direct_delta` None means half of delta; 0 leaves all of it to Rényi curves. `ConfigError`
    unless 0 < epsilon < infinity and 0 <= direct_delta <= delta < 1.
    """

    epsilon: float
    delta: float
    direct_delta: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.epsilon < math.inf:
            raise ConfigError(
                f"Expected 0 < epsilon < infinity, got epsilon={self.epsilon}. Try epsilon=3."
            )
        if not 0 <= self.delta < 1:
            raise ConfigError(
                f"Expected 0 <= delta < 1, got delta={self.delta}. Take less than 1 / (10 n)."
            )
        if self.direct_delta is None:
            object.__setattr__(self, "direct_delta", self.delta / 2)
        elif not 0 <= self.direct_delta <= self.delta:
            raise ConfigError(
                f"Expected 0 <= direct_delta <= delta={self.delta}, got "
                f"direct_delta={self.direct_delta}. Leave it out for half of delta."
            )
        # One stored form for one cap: 3 and 3.0 are the same terms.
        for name in ("epsilon", "delta", "direct_delta"):
            object.__setattr__(self, name, float(getattr(self, name)))

    @cached_property
    def shares(self) -> tuple[float, ...]:
        """Each order's share of delta: half for the one that serves Gaussian noise best."""
        left = self.delta - (self.direct_delta or 0.0)
        if left <= 0:
            return (0.0,) * len(ORDERS)
        room = [self._limit(order, left / 2) / order for order in ORDERS]
        best = room.index(max(room))
        rest = left / 2 / (len(ORDERS) - 1)
        return tuple(left / 2 if i == best else rest for i in range(len(ORDERS)))

    @cached_property
    def limits(self) -> tuple[int, ...]:
        """The largest admitted sum at each order, in units of cost; -1 where none is."""
        return tuple(
            -1 if share <= 0 else _down(self._limit(order, share))
            for order, share in zip(ORDERS, self.shares, strict=True)
        )

    def admits(self, total: Cost) -> bool:
        """Whether charges that sum to `total` stay within the cap, in the sense claimed above."""
        most_pure, most_delta = self._whole
        if total.delta > most_delta:
            return False
        if total.pure is not None and total.pure <= most_pure:
            return True
        return any(
            spent is not None and spent <= limit
            for spent, limit in zip(total.curve, self.limits, strict=True)
        )

    @cached_property
    def _whole(self) -> tuple[int, int]:
        """Epsilon and the share of direct deltas in units, rounded down."""
        return (
            math.floor(_decimal(self.epsilon) / EPSILON_UNIT),
            math.floor(_decimal(self.direct_delta or 0.0) / DELTA_UNIT),
        )

    def _limit(self, order: float, share: float) -> float:
        return self.epsilon - _conversion(order, share)

    def to_json(self) -> dict[str, Any]:
        """The cap as JSON holds it."""
        return {
            "epsilon": self.epsilon,
            "delta": self.delta,
            "direct_delta": self.direct_delta,
        }

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Cap:
        """The cap that `to_json` wrote."""
        return cls(**record)


def epsilon_at(total: Cost, delta: float) -> float:
    """The epsilon at `delta` of charges that sum to `total`; infinity where there is none.

    The least over the orders of S(a) + [log(1/delta') + (a - 1) log(1 - 1/a) - log a] / (a - 1)
    with delta' = delta less the mechanisms' own deltas (Canonne, Kamath & Steinke 2020,
    proposition 12), and of basic composition. It is the cost of these charges taken as a fixed
    list; where each was chosen in the light of earlier outputs, the promise that holds is the cap.
    """
    left = float(_decimal(delta) - total.delta * DELTA_UNIT)
    found = [math.inf]
    if left >= 0 and total.pure is not None:
        found.append(float(total.pure * EPSILON_UNIT))
    if left > 0:
        found += [
            float(spent * EPSILON_UNIT) + _conversion(order, left)
            for order, spent in zip(ORDERS, total.curve, strict=True)
            if spent is not None
        ]
    return max(0.0, min(found))


def _conversion(order: float, delta: float) -> float:
    """What a Rényi bound of this order loses as an epsilon at `delta`, in nats."""
    log_c = (order - 1) * math.log1p(-1 / order) - math.log(order)
    return (log_c - math.log(delta)) / (order - 1)


def _decimal(value: float) -> Fraction:
    return Fraction(str(float(value)))


def _down(value: float) -> int:
    if value < 0:
        return -1
    return max(-1, math.floor(Fraction(value * (1 - _SLACK)) / EPSILON_UNIT) - 1)
