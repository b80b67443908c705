"""A released table judged: singling out, linkability, inference and membership beyond a control.

The release may be synthetic, anonymised, or a sample. Each attack runs on people of the original
and on control people who were drawn like them but never entered the release; only the difference
is a leak of the original.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier

from reticent.attacks.finding import Finding
from reticent.attacks.release import singling_out
from reticent.attacks.release.inference import boosted_guess, nearest_guess, right
from reticent.attacks.release.linkability import by_chance, linked
from reticent.attacks.release.membership import closest_record, density_ratio
from reticent.attacks.release.table import Columns, Encoding, rows_of, take
from reticent.audit.rates import Roc, roc
from reticent.audit.risk import risk_beyond
from reticent.errors import ConfigError, DataError
from reticent.guarantee import Pillar
from reticent.random import seeded

SINGLING_OUT = "singling out"
LINKABILITY = "linkability"
INFERENCE = "inference from a release"
MEMBERSHIP = "membership in a released table"
READER = "client"
"""Whoever reads the release: it sees no more than a client who got an answer."""
_LEAST_CONTROL = 100
_STRICT = 0.999
_QUIET = 0.99
Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Question:
    """What is asked of a release, apart from the tables."""

    names: tuple[str, ...]
    secrets: tuple[str, ...]
    known: Mapping[str, tuple[str, ...]]
    parts: tuple[tuple[str, ...], tuple[str, ...]]
    attacks: int
    width: int
    neighbours: int
    tolerance: float


@dataclass(frozen=True, kw_only=True, eq=False)
class _Outcome:
    """Hits in [0, 1] (or scores, for an area) on the original's people (n,) and controls (m,)."""

    attack: str
    target: str
    hits: NDArray[np.float64]
    controls: NDArray[np.float64]
    is_area: bool = False
    scale: float = 1.0
    details: Mapping[str, Any] = field(default_factory=dict)


def audit_released_table(
    release: Columns,
    original: Columns,
    control: Columns,
    *,
    secrets: Sequence[str] = (),
    quasi_identifiers: Sequence[str] | None = None,
    parts: tuple[Sequence[str], Sequence[str]] | None = None,
    attacks: int = 500,
    width: int = 4,
    neighbours: int = 1,
    tolerance: float = 0.05,
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[Finding, ...]:
    """Findings on a release: ways to single out, one link, guesses of secrets, membership.

    Value is the success on the original's people, floor that on `control` (for membership: 0.5),
    ceiling that of the same attack on a release that is the original itself (positive control).
    Details hold the `risk` (value - floor) / (1 - floor), with its interval, and a negative
    control: the same attack on a release made of half of the control, which must show nothing.

    `secrets` are guessed from `quasi_identifiers` (default: all other columns), a number within a
    share `tolerance`. `parts` are the two column lists to link, by default a random split.
    `width` columns enter a predicate over several columns. At most `attacks` people or predicates
    are tried each. Where the control is smaller than the original, singling out is judged at the
    control's size, and risk scaled back.

    Intervals are for this very release. Raises `DataError` where the control is smaller than 100
    records, or where original and control can be told apart without the release: then no
    difference would say anything about it (Das et al. 2024).
    """
    question = _question(
        release, original, control, secrets, quasi_identifiers, parts,
        attacks=attacks, width=width, neighbours=neighbours, tolerance=tolerance, seed=seed,
    )  # fmt: skip
    blind = _blind(original, control, question, seed)
    rng = seeded(seed, 301)
    half = rng.permutation(rows_of(control, question.names))
    cut = len(half) // 2
    games = {
        "release": (release, original, control),
        "twin": (original, original, control),
        "independent": (take(control, half[:cut]), original, take(control, half[cut:])),
    }
    made: dict[str, list[_Outcome]] = {}
    for number, (name, tables) in enumerate(games.items(), 1):
        if progress is not None:
            progress(f"released table: attacks on the {name}")
        made[name] = _play(*tables, question, seeded(seed, 302, number))
    twins = {(one.attack, one.target): one for one in made["twin"]}
    nulls = {(one.attack, one.target): one for one in made["independent"]}
    return tuple(
        _finding(one, twins.get(key), nulls.get(key), blind)
        for one in made["release"]
        for key in [(one.attack, one.target)]
    )


def _question(
    release: Columns,
    original: Columns,
    control: Columns,
    secrets: Sequence[str],
    quasi_identifiers: Sequence[str] | None,
    parts: tuple[Sequence[str], Sequence[str]] | None,
    *,
    seed: int,
    **numbers: Any,
) -> _Question:
    names = tuple(name for name in release if name in original and name in control)
    for table in (release, original, control):
        rows_of(table, names)
    if rows_of(control, names) < _LEAST_CONTROL:
        raise DataError(
            f"Expected a control of {_LEAST_CONTROL} records or more, got "
            f"{rows_of(control, names)}. Hold out more records before the release is made."
        )
    if numbers["attacks"] < 1 or numbers["neighbours"] < 1 or not 0 <= numbers["tolerance"] < 1:
        raise ConfigError(
            f"Expected attacks >= 1, neighbours >= 1 and 0 <= tolerance < 1, got {numbers}."
        )
    asked = (*secrets, *(quasi_identifiers or ()), *(name for part in parts or () for name in part))
    absent = sorted(set(asked) - set(names))
    if absent:
        raise DataError(f"Expected columns that all tables share, {list(names)}, got {absent}.")
    known = {
        secret: tuple(name for name in quasi_identifiers or names if name != secret)
        for secret in secrets
    }
    if parts is None:
        mixed = seeded(seed, 300).permutation(len(names))
        cut = len(names) // 2
        parts = tuple(names[i] for i in mixed[:cut]), tuple(names[i] for i in mixed[cut:])
    numbers["width"] = min(numbers["width"], len(names))
    return _Question(
        names=names,
        secrets=tuple(secrets),
        known=known,
        parts=(tuple(parts[0]), tuple(parts[1])),
        **numbers,
    )


def _blind(
    original: Columns, control: Columns, question: _Question, seed: int
) -> Mapping[str, Any]:
    """How well original and control are told apart without any release; refused if at all.

    A classifier fits on half of both and ranks the other half.
    """
    encoding = Encoding.of(original, control, names=question.names)
    rng = seeded(seed, 303)
    rows = []
    most = min(len(original[question.names[0]]), len(control[question.names[0]]), 4000)
    for table in (original, control):
        codes = encoding.codes(table)
        rows.append(codes[rng.choice(len(codes), size=most, replace=False)])
    cut = most // 2
    model = HistGradientBoostingClassifier(
        max_iter=40, max_leaf_nodes=8, early_stopping=False, random_state=seed % 2**32
    )
    model.fit(np.concatenate([part[:cut] for part in rows]), np.repeat([1, 0], cut))
    scores = [model.predict_proba(part[cut:])[:, 1] for part in rows]
    curve = _curve(scores[0], scores[1])
    value, interval = curve.auc, curve.auc_interval(confidence=_STRICT)
    if interval[0] > 0.5:
        raise DataError(
            f"Expected control records drawn like the original; they are told apart without the "
            f"release (area {value:.3f}, 99.9 % interval from {interval[0]:.3f}). Hold a random "
            "part of the records out before the release is made, and give that as control."
        )
    return {"area": value, "interval": list(interval), "n": 2 * (most - cut)}


def _play(
    release: Columns,
    original: Columns,
    control: Columns,
    question: _Question,
    rng: np.random.Generator,
) -> list[_Outcome]:
    """All attacks with one release."""
    encoding = Encoding.of(release, names=question.names)
    outcomes = _singled_out(release, original, control, encoding, question, rng)
    people = [
        take(
            {name: table[name] for name in question.names},
            rng.permutation(rows_of(table, question.names))[: question.attacks],
        )
        for table in (original, control)
    ]
    hits = [
        linked(
            release, table, encoding,
            parts=question.parts, neighbours=question.neighbours, rng=rng,
        ).astype(np.float64)
        for table in people
    ]  # fmt: skip
    outcomes.append(
        _Outcome(
            attack=LINKABILITY,
            target=f"{', '.join(question.parts[0])} | {', '.join(question.parts[1])}",
            hits=hits[0],
            controls=hits[1],
            details={
                "neighbours": question.neighbours,
                "by chance": by_chance(rows_of(release, question.names), question.neighbours),
            },
        )
    )
    for secret in question.secrets:
        outcomes += _inferred(release, people, encoding, secret, question, rng)
    outcomes.append(_membership(release, people[0], control, encoding, question, rng))
    return outcomes


def _singled_out(
    release: Columns,
    original: Columns,
    control: Columns,
    encoding: Encoding,
    question: _Question,
    rng: np.random.Generator,
) -> list[_Outcome]:
    codes = encoding.codes(release)
    sides = [encoding.codes(table) for table in (original, control)]
    size = min(len(side) for side in sides)
    made = {"one column": singling_out.univariate(codes, encoding, count=question.attacks, rng=rng)}
    for exact in (False, True):
        name = f"{question.width} columns" + (", equal values" if exact else "")
        made[name] = singling_out.multivariate(
            codes, encoding, count=question.attacks, width=question.width, rng=rng, exact=exact
        )
    outcomes = []
    for name, predicates in made.items():
        if len(predicates) == 0:
            continue
        hits, controls = (
            singling_out.isolation(predicates.matches(side), len(side), size) for side in sides
        )
        first = int(np.argmax(hits))
        outcomes.append(
            _Outcome(
                attack=SINGLING_OUT,
                target=name,
                hits=hits,
                controls=controls,
                scale=len(sides[0]) / size,
                details={
                    "judged at records": size,
                    "example": predicates.describe(first, encoding) if hits[first] > 0 else "",
                },
            )
        )
    return outcomes


def _inferred(
    release: Columns,
    people: Sequence[Columns],
    encoding: Encoding,
    secret: str,
    question: _Question,
    rng: np.random.Generator,
) -> list[_Outcome]:
    known = question.known[secret]
    numeric = encoding.is_numeric(secret)
    both = {
        name: np.concatenate([np.asarray(table[name]) for table in people])
        for name in question.names
    }
    truth = encoding.codes(both, (secret,))[:, 0]
    cut = len(people[0][secret])
    outcomes = []
    for name, guess in (("nearest", nearest_guess), ("boosting", boosted_guess)):
        guesses = guess(release, both, encoding, secret=secret, known=known, rng=rng)
        if guesses is None:
            continue
        found = right(guesses, truth, numeric=numeric, tolerance=question.tolerance)
        hits = found.astype(np.float64)
        outcomes.append(
            _Outcome(
                attack=INFERENCE,
                target=f"{secret} ({name})",
                hits=hits[:cut],
                controls=hits[cut:],
                details={"known columns": list(known)},
            )
        )
    return outcomes


def _membership(
    release: Columns,
    members: Columns,
    control: Columns,
    encoding: Encoding,
    question: _Question,
    rng: np.random.Generator,
) -> _Outcome:
    """Half of the control are the non-members, half the attacker's own reference."""
    order = rng.permutation(rows_of(control, question.names))
    cut = len(order) // 2
    others = take(control, order[:cut][: question.attacks])
    reference = take(control, order[cut:])
    ratio = [
        density_ratio(release, reference, table, encoding, rng=rng) for table in (members, others)
    ]
    closest = [closest_record(release, table, encoding, rng=rng) for table in (members, others)]
    smoke = _curve(closest[0], closest[1])
    return _Outcome(
        attack=MEMBERSHIP,
        target="density ratio",
        hits=ratio[0],
        controls=ratio[1],
        is_area=True,
        details={
            "distance to closest record": {"area": smoke.auc, "ci": list(smoke.auc_ci)},
            "records at distance 0": {
                "original": float((closest[0] == 0).mean()),
                "control": float((closest[1] == 0).mean()),
            },
        },
    )


def _finding(
    outcome: _Outcome, twin: _Outcome | None, null: _Outcome | None, blind: Mapping[str, Any]
) -> Finding:
    details = {**outcome.details, "blind": dict(blind)}
    value, ci, floor, excess, excess_ci, more = _measured(outcome, 0.95)
    details |= more
    ceiling = None
    if twin is not None:
        ceiling, _ci, _floor, gain, gain_ci, _more = _measured(twin, _QUIET)
        details["positive control"] = {
            "release": "the original itself",
            "excess": gain,
            "passed": gain_ci[0] > 0,
        }
    if null is not None:
        _value, _ci, _floor, gain, gain_ci, _more = _measured(null, _QUIET)
        details["negative control"] = {
            "release": "half of the control",
            "excess": gain,
            "passed": gain_ci[0] <= 0,
        }
    return Finding(
        attack=outcome.attack,
        pillar=Pillar.TRAINING_DATA,
        adversary=READER,
        target=outcome.target,
        metric="area under ROC" if outcome.is_area else "success rate",
        value=value,
        ci=ci,
        floor=floor,
        excess=excess,
        excess_ci=excess_ci,
        n=len(outcome.hits),
        ceiling=ceiling,
        details=details,
    )


def _measured(
    outcome: _Outcome, confidence: float
) -> tuple[float, tuple[float, float], float, float, tuple[float, float], dict[str, Any]]:
    """Value, interval, floor, excess, its interval, and details of one outcome."""
    if outcome.is_area:
        curve = _curve(outcome.hits, outcome.controls)
        value, ci = curve.auc, curve.auc_interval(confidence=confidence)
        counted = {"control_n": len(outcome.controls), **curve.details()}
        return value, ci, 0.5, value - 0.5, (ci[0] - 0.5, ci[1] - 0.5), counted
    risk = risk_beyond(outcome.hits, outcome.controls, confidence=confidence)
    more = dict(risk.details())
    if outcome.scale > 1:
        scaled = [
            float(np.clip(outcome.scale * part, -1, 1)) for part in (risk.risk, *risk.risk_ci)
        ]
        more |= {"risk": scaled[0], "risk_ci": scaled[1:], "scaled by": outcome.scale}
    return risk.attack, risk.attack_ci, risk.control, risk.excess, risk.excess_ci, more


def _curve(hits: NDArray[np.float64], controls: NDArray[np.float64]) -> Roc:
    return roc(
        np.concatenate([hits, controls]), np.repeat([True, False], [len(hits), len(controls)])
    )
