"""The comparison of mechanisms: utility, excess leakage, client cost, few-shot decoding."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from reticent.errors import ConfigError

Interval = tuple[float, float]
Objective = Literal["utility", "excess", "client_flops_share", "few_shot", "latency"]
OBJECTIVES: tuple[Objective, ...] = (
    "utility",
    "excess",
    "client_flops_share",
    "few_shot",
    "latency",
)


@dataclass(frozen=True, kw_only=True)
class Point:
    """One mechanism at one setting, measured on the common test split.

    `utility` is in the public task's metric, higher is better (an error metric enters negated).
    `excess` is the worst excess over every attribute and every number of pooled requests, reached
    on `target` with `requests` requests. `few_shot` maps labelled examples per class to the
    utility that a client reaches with them and without the server; `alone` is the utility of a
    stand-alone classifier of the client half's cost. `latency_ms` is the median time of one query,
    both halves in one process. `guaranteed` says that a claim stronger than
    "the attacks that were run" stands behind it, `contradicted` that an attack broke that claim,
    `chosen` that this is the deployment which the scorecard is about.
    """

    method: str
    utility: float
    excess: float
    client_flops_share: float
    few_shot: Mapping[int, float] = field(default_factory=dict)
    alone: float | None = None
    latency_ms: float | None = None
    utility_ci: Interval | None = None
    excess_ci: Interval | None = None
    target: str = ""
    requests: int = 1
    guaranteed: bool = False
    contradicted: bool = False
    chosen: bool = False
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        measured = {
            "utility": self.utility,
            "excess": self.excess,
            "client_flops_share": self.client_flops_share,
            **{f"few_shot[{count}]": value for count, value in self.few_shot.items()},
        }
        if self.latency_ms is not None:
            measured["latency_ms"] = self.latency_ms
        for name, value in measured.items():
            if not math.isfinite(value):
                raise ConfigError(
                    f"Expected a finite {name} for method {self.method!r}, got {name}={value}. "
                    "Leave a point out of the frontier when it could not be measured."
                )

    def losses(self, objectives: Iterable[Objective] = OBJECTIVES) -> tuple[float, ...]:
        """What is to be made small, one number per objective.

        A negative excess counts as zero: an attacker who does worse than the label alone would
        use the label. Few-shot decoding and latency that were not measured count as infinitely bad,
        so that leaving them out is no merit.
        """
        fewest = min(self.few_shot, default=None)
        values: dict[Objective, float] = {
            "utility": -self.utility,
            "excess": max(0.0, self.excess),
            "client_flops_share": self.client_flops_share,
            "few_shot": math.inf if fewest is None else self.few_shot[fewest],
            "latency": math.inf if self.latency_ms is None else self.latency_ms,
        }
        return tuple(values[objective] for objective in objectives)

    def dominates(self, other: Point, objectives: Iterable[Objective] = OBJECTIVES) -> bool:
        """Whether this point is nowhere worse than `other` and somewhere better."""
        chosen = tuple(objectives)
        pairs = list(zip(self.losses(chosen), other.losses(chosen), strict=True))
        return all(mine <= theirs for mine, theirs in pairs) and any(
            mine < theirs for mine, theirs in pairs
        )

    def to_json(self) -> dict[str, Any]:
        """A JSON object that `from_json` restores."""
        record = asdict(self)
        record["few_shot"] = {str(count): value for count, value in self.few_shot.items()}
        return record

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Point:
        """The point that `to_json` wrote. Raises `ConfigError` for a missing or wrong field."""
        try:
            return _POINT.validate_python(record)
        except ValidationError as error:
            first = error.errors()[0]
            raise ConfigError(
                f"Expected a frontier point; {'.'.join(map(str, first['loc']))}: {first['msg']}, "
                f"got {first['input']!r:.80}."
            ) from error


_POINT = TypeAdapter(Point)


def pareto(
    points: Iterable[Point], objectives: Iterable[Objective] = OBJECTIVES
) -> tuple[Point, ...]:
    """The points that no other point dominates, in the order given.

    With all objectives the undefended model stays in: its client computes nothing. To ask
    the narrower question "which keeps utility and leaks least", name those two objectives.
    """
    chosen = tuple(objectives)
    if not chosen:
        raise ConfigError(f"Expected at least one objective among {OBJECTIVES}, got none.")
    candidates = tuple(points)
    return tuple(
        point
        for point in candidates
        if not any(other.dominates(point, chosen) for other in candidates)
    )
