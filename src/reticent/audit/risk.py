"""A risk beyond its control: success on people in the data less success on people who are not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray
from scipy.stats import norm

from reticent.attacks.finding import Interval
from reticent.audit.statistics import CONFIDENCE


@dataclass(frozen=True, kw_only=True)
class Risk:
    """Success `attack` on n people, `control` on m others, their difference, and the risk.

    `risk` is (attack - control) / (1 - control): the share of cases that only the data explain,
    among those that chance and common knowledge leave open. It may be negative by chance.
    """

    attack: float
    attack_ci: Interval
    control: float
    control_ci: Interval
    excess: float
    excess_ci: Interval
    risk: float
    risk_ci: Interval
    n: int
    m: int

    def details(self) -> Mapping[str, Any]:
        """What a finding says beside value and excess, JSON-ready."""
        return {
            "risk": self.risk,
            "risk_ci": list(self.risk_ci),
            "control": self.control,
            "control_ci": list(self.control_ci),
            "control_n": self.m,
        }


def risk_beyond(
    hits: NDArray[Any], controls: NDArray[Any], *, confidence: float = CONFIDENCE
) -> Risk:
    """The risk from outcomes in [0, 1] of attacks (n,) and of control attacks (m,).

    Wilson intervals for both rates; the difference and the risk get theirs from those by
    Newcombe's method (1998, method 10; Zou and Donner 2008 for functions of two rates). Outcomes
    between 0 and 1 vary less than coins do, so the intervals are then wider than need be.
    """
    attack, attack_ci = wilson(float(hits.sum()), len(hits), confidence=confidence)
    control, control_ci = wilson(float(controls.sum()), len(controls), confidence=confidence)
    excess = attack - control
    down = (attack - attack_ci[0], control_ci[1] - control)
    up = (attack_ci[1] - attack, control - control_ci[0])
    room = max(1 - control, 1e-9)
    # The risk's slopes: 1 / (1 - control) in attack, (1 - attack) / (1 - control)^2 in control.
    slope = (1 - attack) / room
    risk = excess / room if control < 1 else 0.0
    return Risk(
        attack=attack,
        attack_ci=attack_ci,
        control=control,
        control_ci=control_ci,
        excess=excess,
        excess_ci=(excess - math.hypot(*down), excess + math.hypot(*up)),
        risk=risk,
        risk_ci=(
            max(-1.0, risk - math.hypot(down[0], slope * down[1]) / room),
            min(1.0, risk + math.hypot(up[0], slope * up[1]) / room),
        ),
        n=len(hits),
        m=len(controls),
    )


def wilson(
    successes: float, trials: int, *, confidence: float = CONFIDENCE
) -> tuple[float, Interval]:
    """A rate and its score interval (Wilson 1927); `successes` may be a sum of parts in [0, 1]."""
    if trials < 1 or not 0 <= successes <= trials + 1e-9:
        raise ValueError(
            f"Expected 0 <= successes <= trials and trials >= 1, got {successes=}, {trials=}."
        )
    z = float(norm.ppf(0.5 + confidence / 2))
    rate = successes / trials
    spread = 1 + z * z / trials
    centre = (rate + z * z / (2 * trials)) / spread
    half = z * math.sqrt(rate * (1 - min(rate, 1)) / trials + z * z / (4 * trials**2)) / spread
    return rate, (max(0.0, min(rate, centre - half)), min(1.0, max(rate, centre + half)))
