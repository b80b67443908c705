"""What an attack measured: value, interval, floor, ceiling, sample size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from reticent.guarantee import Guarantee, Pillar

Interval = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One measured leak (or its absence).

    `value` is the attack's success in `metric`; `floor` what the same attacker reaches from the
    predicted public label alone; `ceiling` the same attack on the undefended system. `excess` is
    value - floor with its own (paired) interval. `requests` is the number m of pooled requests of
    one user; `n` the number of independent test decisions.
    """

    attack: str
    pillar: Pillar
    adversary: str
    target: str
    metric: str
    value: float
    ci: Interval
    floor: float
    excess: float
    excess_ci: Interval
    n: int
    requests: int = 1
    seeds: int = 1
    ceiling: float | None = None
    contradicts: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)

    def against(self, guarantees: tuple[Guarantee, ...]) -> Finding:
        """This finding with `contradicts` set to the first guarantee that it contradicts.

        Only guarantees of the same pillar and adversary count. A finding contradicts when the
        lower end of its excess interval lies above what the guarantee allows.
        """
        for guarantee in guarantees:
            if guarantee.pillar is not self.pillar or guarantee.adversary.name != self.adversary:
                continue
            allowed = guarantee.allowed_excess(self.requests)
            if allowed is not None and self.excess_ci[0] > allowed:
                return replace(self, contradicts=guarantee.id)
        return self

    def to_json(self) -> dict[str, Any]:
        """A JSON object as DESIGN's scorecard contract names it."""
        return {
            **asdict(self),
            "pillar": self.pillar.value,
            "ci": list(self.ci),
            "excess_ci": list(self.excess_ci),
            "details": dict(self.details),
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Finding:
        """The finding that `to_json` wrote."""
        values = dict(record)
        values["pillar"] = Pillar(values["pillar"])
        values["ci"] = tuple(values["ci"])
        values["excess_ci"] = tuple(values["excess_ci"])
        return cls(**values)
