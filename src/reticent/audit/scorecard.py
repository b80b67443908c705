"""The scorecard: what is claimed and what attacks measured, side by side per pillar."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import TypeAdapter, ValidationError

from reticent.attacks.finding import Finding
from reticent.audit import family
from reticent.audit.family import broken_by, could_contradict, judged
from reticent.audit.frontier import Point
from reticent.data.task import Task
from reticent.errors import ConfigError
from reticent.guarantee import Empirical, Guarantee, Pillar

SCHEMA = 1
_SHARES = (
    "accuracy", "rate", "tpr", "auc", "recall", "precision", "advantage", "agreement", "fidelity",
    "records rebuilt", "records stored", "weights recovered", "risk",
)  # fmt: skip
Interval = tuple[float, float]
Section = TypeVar("Section")


class Verdict(StrEnum):
    """The whole scorecard in one word; a contradiction outweighs a failed gate."""

    HOLDS = "holds"
    CONTRADICTED = "contradicted"
    GATE_FAILED = "gate failed"


class Status(StrEnum):
    """What the attacks say about one guarantee."""

    VIOLATED = "violated"
    CONSISTENT = "consistent"
    INCONCLUSIVE = "inconclusive (power)"
    NOT_TESTED = "not tested"
    NOT_APPLICABLE = "not applicable"


@dataclass(frozen=True, kw_only=True)
class TaskSummary:
    """What the task is. `private` maps each private attribute to its number of classes."""

    name: str
    title: str
    synthetic: bool
    kind: str
    records: int
    users: int | None
    classes: int
    public: str
    private: Mapping[str, int]
    source: str = ""
    regimes: tuple[str, ...] = ()

    @classmethod
    def of(cls, task: Task, *, public: str, regimes: Iterable[str] = ()) -> TaskSummary:
        """The summary of `task`, whose public label is called `public`."""
        return cls(
            name=task.name,
            title=task.title,
            synthetic=task.synthetic,
            kind=task.kind.value,
            records=len(task),
            users=None if task.users is None else len(np.unique(task.users)),
            classes=task.classes,
            public=public,
            private={name: int(values.max()) + 1 for name, values in task.private.items()},
            source=task.source,
            regimes=tuple(regimes),
        )


@dataclass(frozen=True, kw_only=True)
class Method:
    """The mechanism that was deployed, with its parameters."""

    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Utility:
    """Utility on the test split of `n` records. `loss` > 0 means that protection costs utility;
    `ci` is the 95 % interval of the loss (paired)."""

    metric: str
    baseline: float
    protected: float
    loss: float
    ci: Interval
    n: int

    @property
    def is_error(self) -> bool:
        """Whether the metric is an error (smaller is better), judged by the sign of the loss."""
        return (self.baseline - self.protected) * self.loss < 0


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Median milliseconds of one query, undefended and protected, on the same machine."""

    plain: float
    protected: float


@dataclass(frozen=True, kw_only=True)
class Packing:
    """What one way to lay a network out for ciphertexts costs, as planned: nothing measured."""

    packing: str
    rotations: int
    key_bytes: int
    upload_bytes: int
    reply_bytes: int
    server_ms: float


@dataclass(frozen=True, kw_only=True)
class Encryption:
    """What the planner settled before anything was encrypted, and what it did not choose."""

    levels: int
    ring: int
    modulus_bits: int
    chosen: Packing
    others: tuple[Packing, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What protection costs. Shares are of the whole model; bytes are of one query.

    `encryption` belongs to deployments that compute on ciphertexts.
    """

    client_flops_share: float
    client_params_share: float
    request_bytes: int
    reply_bytes: int
    latency_ms: Latency | None = None
    encryption: Encryption | None = None


@dataclass(frozen=True, kw_only=True)
class Alone:
    """What a client can do without the server: the price of input privacy in model privacy.

    `utility`: a stand-alone classifier of the client half's cost, in the public task's metric.
    `few_shot`: labelled examples per class -> utility of decoding the client half's own output.
    """

    utility: float | None = None
    few_shot: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class PillarRow:
    """The claims about one pillar beside the attacks on it. `alone` belongs to the model."""

    guarantees: tuple[Guarantee, ...] = ()
    findings: tuple[Finding, ...] = ()
    alone: Alone | None = None


@dataclass(frozen=True, kw_only=True)
class Gate:
    """A limit that the recipe states, and what was measured."""

    limit: float
    value: float
    passed: bool

    @classmethod
    def at_most(cls, limit: float, value: float) -> Gate:
        """The gate `value <= limit`."""
        return cls(limit=limit, value=value, passed=value <= limit)


@dataclass(frozen=True, kw_only=True)
class Replay:
    """All that somebody else needs to get the same figures."""

    command: str
    versions: Mapping[str, str]
    seeds: tuple[int, ...]
    data_digest: str


@dataclass(frozen=True, kw_only=True)
class Scorecard:
    """Claims and measurements per pillar, with utility, cost and a computed verdict.

    Once built, three things are true: all four pillars are there; every finding has been judged
    against every guarantee of its pillar and adversary; every number is finite. Pillars are never
    averaged: one contradiction decides. `notices` are read before the numbers (what was simulated
    or left unaudited). `untested` maps each attack that was not run to the reason. An audit of a
    finished model knows no undefended twin unless it is given one: `utility` is then None, and
    `cost` is None wherever nothing was deployed.
    """

    task: TaskSummary
    method: Method
    utility: Utility | None
    cost: Cost | None
    replay: Replay
    pillars: Mapping[Pillar, PillarRow]
    gates: Mapping[str, Gate] = field(default_factory=dict)
    frontier: tuple[Point, ...] = ()
    notices: tuple[str, ...] = ()
    untested: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rows = {pillar: self.pillars.get(pillar, PillarRow()) for pillar in Pillar}
        for pillar, row in rows.items():
            _check_row(pillar, row)
        _check_ids(rows)
        rejudged = {
            pillar: PillarRow(
                guarantees=row.guarantees,
                findings=judged(row.findings, row.guarantees),
                alone=row.alone,
            )
            for pillar, row in rows.items()
        }
        object.__setattr__(self, "pillars", rejudged)
        _refuse_non_finite(self.to_json(), "scorecard")

    @property
    def verdict(self) -> Verdict:
        """Contradicted if any attack contradicts any claim; else whether every gate passed."""
        if self.contradictions:
            return Verdict.CONTRADICTED
        if not all(gate.passed for gate in self.gates.values()):
            return Verdict.GATE_FAILED
        return Verdict.HOLDS

    @property
    def guarantees(self) -> tuple[Guarantee, ...]:
        """Every claim, in the order of the pillars."""
        return tuple(g for row in self.pillars.values() for g in row.guarantees)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Every measurement, in the order of the pillars."""
        return tuple(f for row in self.pillars.values() for f in row.findings)

    @property
    def contradictions(self) -> tuple[Finding, ...]:
        """The findings that contradict a claim."""
        return tuple(finding for finding in self.findings if finding.contradicts)

    @property
    def alone(self) -> Alone:
        """What a client can do without the server (empty where it was not measured)."""
        return self.pillars[Pillar.MODEL].alone or Alone()

    def tests(self, guarantee: Guarantee) -> tuple[Finding, ...]:
        """The findings that put `guarantee` to the test."""
        findings = self.pillars[guarantee.pillar].findings
        return tuple(finding for finding in findings if family.tests(finding, guarantee))

    def powerful(self, guarantee: Guarantee) -> tuple[Finding, ...]:
        """Those of `tests` that could have contradicted `guarantee`."""
        tests = self.tests(guarantee)
        size = family.family_size(guarantee, tests)
        return tuple(
            finding for finding in tests if could_contradict(finding, guarantee, family=size)
        )

    def status(self, guarantee: Guarantee) -> Status:
        """What the attacks say about `guarantee`.

        Consistent takes at least one attack that could have contradicted: one whose positive
        control (the same attack on the undefended system) exceeds what is claimed by more than
        the measurement's own uncertainty. A pass without that power is inconclusive.
        """
        tests = self.tests(guarantee)
        # A finding names only the first claim that it breaks; the others are broken as well.
        if broken_by(guarantee, tests) or any(f.contradicts == guarantee.id for f in tests):
            return Status.VIOLATED
        if isinstance(guarantee.strength, Empirical):
            return Status.NOT_APPLICABLE
        if not tests:
            return Status.NOT_TESTED
        if self.powerful(guarantee):
            return Status.CONSISTENT
        return Status.INCONCLUSIVE

    def strongest(self, pillar: Pillar) -> Finding | None:
        """The finding that decides a pillar's row: a contradiction first, else the worst excess.

        Shares (accuracies, rates, records rebuilt) come before measures of another scale (an
        explained variance or an epsilon can't be ranked among them); of equals, the one with most
        pooled requests decides.
        """
        return max(
            self.pillars[pillar].findings,
            key=lambda f: (
                f.contradicts is not None,
                is_share(f.metric),
                f.excess,
                f.requests,
            ),
            default=None,
        )

    def point(self) -> Point:
        """This deployment as a point of the frontier (the input pillar's worst finding)."""
        worst = self.strongest(Pillar.INPUT)
        if worst is None:
            raise ConfigError(
                "Expected a finding about the input; a deployment that was not attacked has no "
                "place on a frontier. Run the audit first."
            )
        if self.utility is None or self.cost is None:
            raise ConfigError(
                "Expected utility and cost for a place on a frontier, got a scorecard of a model "
                "that was audited without an undefended twin or a deployment."
            )
        sign = -1 if self.utility.is_error else 1
        claims = self.pillars[Pillar.INPUT].guarantees
        return Point(
            method=self.method.name,
            parameters=self.method.parameters,
            utility=sign * self.utility.protected,
            excess=worst.excess,
            excess_ci=worst.excess_ci,
            target=worst.target,
            requests=worst.requests,
            client_flops_share=self.cost.client_flops_share,
            few_shot=self.alone.few_shot,
            alone=self.alone.utility,
            latency_ms=None if self.cost.latency_ms is None else self.cost.latency_ms.protected,
            guaranteed=any(not isinstance(claim.strength, Empirical) for claim in claims),
            contradicted=any(f.contradicts for f in self.pillars[Pillar.INPUT].findings),
        )

    def to_json(self) -> dict[str, Any]:
        """The JSON object of DESIGN's contract, schema 1, that `from_json` restores."""
        cost = None if self.cost is None else _cost_json(self.cost)
        return {
            "schema": SCHEMA,
            "verdict": self.verdict.value,
            "task": asdict(self.task),
            "method": asdict(self.method),
            "utility": None if self.utility is None else asdict(self.utility),
            "cost": cost,
            "pillars": {pillar.value: self._row(row) for pillar, row in self.pillars.items()},
            "gates": {name: asdict(gate) for name, gate in self.gates.items()},
            "frontier": [point.to_json() for point in self.frontier],
            "notices": list(self.notices),
            "untested": dict(self.untested),
            "replay": asdict(self.replay),
        }

    def _row(self, row: PillarRow) -> dict[str, Any]:
        record: dict[str, Any] = {
            "guarantees": [
                {**guarantee.to_json(), "status": self.status(guarantee).value}
                for guarantee in row.guarantees
            ],
            "findings": [finding.to_json() for finding in row.findings],
        }
        if row.alone is not None:
            few_shot = {str(count): value for count, value in row.alone.few_shot.items()}
            record["alone"] = {"utility": row.alone.utility, "few_shot": few_shot}
        return record

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Scorecard:
        """The scorecard that `to_json` wrote.

        Raises `ConfigError` for another schema, a missing or wrong field, and a stored verdict
        that the findings don't bear out. Fields that schema 1 doesn't know are left aside.
        """
        if not isinstance(record, Mapping) or record.get("schema") != SCHEMA:
            found = record.get("schema") if isinstance(record, Mapping) else type(record).__name__
            raise ConfigError(
                f"Expected a scorecard of schema {SCHEMA}, got schema={found!r}. "
                "Write it again with this version: reticent audit."
            )
        utility = None if record.get("utility", ()) is None else _part(record, "utility")
        cost = None if record.get("cost", ()) is None else dict(_part(record, "cost"))
        if cost and all(value is None for value in (cost.get("latency_ms") or {}).values()):
            cost["latency_ms"] = None
        card = cls(
            task=_read(TaskSummary, _part(record, "task"), "task"),
            method=_read(Method, _part(record, "method"), "method"),
            utility=None if utility is None else _read(Utility, utility, "utility"),
            cost=None if cost is None else _read(Cost, cost, "cost"),
            replay=_read(Replay, _part(record, "replay"), "replay"),
            pillars=_read_pillars(_part(record, "pillars")),
            gates=_read(dict[str, Gate], record.get("gates", {}), "gates"),
            frontier=tuple(Point.from_json(point) for point in record.get("frontier", [])),
            notices=_read(tuple[str, ...], record.get("notices", []), "notices"),
            untested=_read(dict[str, str], record.get("untested", {}), "untested"),
        )
        if record.get("verdict") != card.verdict.value:
            raise ConfigError(
                f"Expected verdict={card.verdict.value!r}, which the findings and gates give, "
                f"got verdict={record.get('verdict')!r}. The file was changed after the audit."
            )
        return card

    def write(self, path: Path) -> None:
        """Write `scorecard.json`; a reader never meets half a file."""
        text = json.dumps(self.to_json(), indent=2, ensure_ascii=False, default=_plain)
        write_atomically(path, text + "\n")

    @classmethod
    def read(cls, path: Path) -> Scorecard:
        """The scorecard in the file at `path`. Raises `ConfigError` where that isn't one."""
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ConfigError(f"Expected a scorecard in {path.name!r}: {error}.") from error
        return cls.from_json(record)


def by_pillar(
    guarantees: Iterable[Guarantee], findings: Iterable[Finding], *, alone: Alone | None = None
) -> dict[Pillar, PillarRow]:
    """Guarantees and findings laid into the rows of the four pillars."""
    claims, measured = tuple(guarantees), tuple(findings)
    return {
        pillar: PillarRow(
            guarantees=tuple(claim for claim in claims if claim.pillar is pillar),
            findings=tuple(finding for finding in measured if finding.pillar is pillar),
            alone=alone if pillar is Pillar.MODEL else None,
        )
        for pillar in Pillar
    }


def _cost_json(cost: Cost) -> dict[str, Any]:
    """With the contract's keys always, and `encryption` where there is any."""
    record = asdict(cost)
    record["latency_ms"] = record["latency_ms"] or {"plain": None, "protected": None}
    if record["encryption"] is None:
        del record["encryption"]
    return record


def is_share(metric: str) -> bool:
    """Whether `metric` lies between 0 and 1: an accuracy, a rate, a share of records."""
    return any(word in metric.lower() for word in _SHARES)


def write_atomically(path: Path, text: str) -> None:
    """Write `text` as UTF-8 beside `path`, then rename it into place."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with draft.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _check_row(pillar: Pillar, row: PillarRow) -> None:
    if row.alone is not None and pillar is not Pillar.MODEL:
        raise ConfigError(f"Expected 'alone' under pillar 'model', got pillar={pillar.value!r}.")
    found = [claim.pillar.value for claim in row.guarantees]
    found += [finding.pillar.value for finding in row.findings]
    misplaced = set(found) - {pillar.value}
    if misplaced:
        raise ConfigError(
            f"Expected only guarantees and findings of pillar {pillar.value!r} in its row, "
            f"got pillar={sorted(misplaced)[0]!r}. Lay them out with by_pillar."
        )
    for finding in row.findings:
        for name, (low, high) in (("ci", finding.ci), ("excess_ci", finding.excess_ci)):
            if not low <= high:
                raise ConfigError(
                    f"Expected {name} as (low, high) in attack {finding.attack!r} on "
                    f"{finding.target!r}, got {name}={(low, high)}."
                )


def _check_ids(rows: Mapping[Pillar, PillarRow]) -> None:
    ids = [guarantee.id for row in rows.values() for guarantee in row.guarantees]
    doubled = sorted({name for name in ids if ids.count(name) > 1})
    if doubled:
        raise ConfigError(f"Expected unique guarantee ids, got id={doubled[0]!r} twice.")
    for pillar, row in rows.items():
        own = {guarantee.id for guarantee in row.guarantees}
        for finding in row.findings:
            if finding.contradicts is not None and finding.contradicts not in own:
                raise ConfigError(
                    f"Expected 'contradicts' to name a guarantee of pillar {pillar.value!r}, "
                    f"got contradicts={finding.contradicts!r}. Known: {sorted(own)}."
                )


def _refuse_non_finite(value: Any, where: str) -> None:
    """JSON has no NaN, and a figure that isn't a number must not look like a pass."""
    if isinstance(value, Mapping):
        for name, part in value.items():
            _refuse_non_finite(part, f"{where}.{name}")
    elif isinstance(value, list | tuple):
        for index, part in enumerate(value):
            _refuse_non_finite(part, f"{where}[{index}]")
    elif isinstance(value, float | np.floating) and not math.isfinite(value):
        raise ConfigError(f"Expected a finite number at {where}, got {value}.")


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"Expected a value that JSON can hold, got {type(value).__name__}.")


def _part(record: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = record.get(name)
    if not isinstance(part, Mapping):
        raise ConfigError(
            f"Expected the scorecard section {name!r} as an object, got {type(part).__name__}."
        )
    return part


def _read(kind: type[Section], record: Any, where: str) -> Section:
    try:
        return TypeAdapter(kind).validate_python(record)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(
            f"Expected a scorecard; {'.'.join([where, *map(str, first['loc'])])}: {first['msg']}, "
            f"got {first['input']!r:.80}."
        ) from error


def _read_pillars(record: Mapping[str, Any]) -> dict[Pillar, PillarRow]:
    names = {pillar.value for pillar in Pillar}
    if set(record) != names:
        raise ConfigError(
            f"Expected exactly the pillars {sorted(names)}, got pillars={sorted(record)}."
        )
    return {pillar: _read_row(_part(record, pillar.value), pillar) for pillar in Pillar}


def _read_row(record: Mapping[str, Any], pillar: Pillar) -> PillarRow:
    try:
        return PillarRow(
            guarantees=tuple(Guarantee.from_json(item) for item in record["guarantees"]),
            findings=tuple(Finding.from_json(item) for item in record["findings"]),
            alone=_read(Alone, record["alone"], "alone") if record.get("alone") else None,
        )
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(
            f"Expected guarantees and findings under pillar {pillar.value!r}; "
            f"{type(error).__name__}: {error}."
        ) from error
