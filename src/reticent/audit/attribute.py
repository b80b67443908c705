"""Attribute inference judged: attackers' scores against the truth, as findings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from reticent.attacks.attribute.inference import QUICK, AttributeScores, attack_attribute
from reticent.attacks.finding import Finding
from reticent.attacks.view import Observed, ServerView
from reticent.audit.family import judged as judged_together
from reticent.audit.statistics import Bootstrap, bootstrap_balanced
from reticent.errors import ConfigError, DataError
from reticent.guarantee import SERVER, Guarantee, Pillar

ATTACK = "attribute inference"
METRIC = "balanced accuracy"
# How far the chosen attacker may be shown to trail another, and the chance of a false showing.
_POINT, _OVERRULE = 0.01, 0.05
Progress = Callable[[str], None]


def audit_attributes(
    view: ServerView,
    *,
    attributes: Sequence[str] | None = None,
    undefended: ServerView | Sequence[Finding] | None = None,
    requests: Sequence[int] = (1, 8, 32),
    seeds: Sequence[int] = (0, 1, 2),
    families: Sequence[str] | None = None,
    guarantees: tuple[Guarantee, ...] = (),
    quick: bool = False,
    progress: Progress | None = None,
) -> list[Finding]:
    """One finding per attribute and number m of pooled requests.

    Value, floor and excess are balanced accuracy of the attacker chosen on its own validation
    part, of the predicted label alone, and their difference, on the test part. Where the test part
    shows, for all families at once and with 95 % confidence, that another family is better by more
    than a point, that family is reported instead ("choice overruled" in the details): an attacker
    who chose badly is no protection. Outcomes of all
    `seeds` (noise draws, network starts, groups) are averaged; intervals are a bootstrap over
    users, or over records where there are none, with paired resamples for the excess. Seeds are
    not resampled; each one's value stands in the details.

    `undefended` gives the ceiling: a view to attack in the same way, or the findings of an
    earlier audit of it. `quick` runs three families with the first seed only. An m for which
    there are no groups (no users, an attribute that varies within a user, too few records) has no
    finding, and the details of m = 1 say why. Raises `DataError` when most test records have a
    value that the attacker never met (audit identity with known users).
    """
    names = tuple(view.test.private) if attributes is None else tuple(attributes)
    if quick:
        seeds, families = tuple(seeds)[:1], QUICK if families is None else families
    if not seeds or min(requests, default=0) < 1:
        raise ConfigError(
            f"Expected one seed or more and requests >= 1, got seeds={tuple(seeds)}, "
            f"requests={tuple(requests)}."
        )
    ceilings: Sequence[Finding] = ()
    if isinstance(undefended, ServerView):
        ceilings = audit_attributes(
            undefended,
            attributes=names,
            requests=requests,
            seeds=seeds,
            families=families,
            progress=progress,
        )
    elif undefended is not None:
        ceilings = undefended
    ceiling_of = {(found.target, found.requests): found.value for found in ceilings}
    findings = []
    for name in names:
        attacks = []
        for seed in seeds:
            if progress is not None:
                progress(f"{view.name}: {ATTACK} of {name}, seed {seed}")
            attacks.append(
                attack_attribute(view, name, seed=seed, families=families, requests=requests)
            )
        for judged in judge(attacks, view.test, requests=requests):
            findings.append(judged.finding(ceiling_of.get((name, judged.requests))))
    return list(judged_together(findings, guarantees))


@dataclass(frozen=True, kw_only=True)
class Judged:
    """The decisions of one attack (all seeds) for one m, resampled against the truth.

    Columns of `balanced` are the chosen attacker and the floor; `details` is JSON-ready.
    """

    attribute: str
    requests: int
    seeds: int
    n: int
    balanced: Bootstrap
    details: Mapping[str, Any]

    def finding(self, ceiling: float | None = None) -> Finding:
        """The finding, without any guarantee checked."""
        excess, excess_ci = self.balanced.difference(0, 1)
        return Finding(
            attack=ATTACK,
            pillar=Pillar.INPUT,
            adversary=SERVER.name,
            target=self.attribute,
            metric=METRIC,
            value=float(self.balanced.values[0]),
            ci=self.balanced.interval(0),
            floor=float(self.balanced.values[1]),
            excess=excess,
            excess_ci=excess_ci,
            n=self.n,
            requests=self.requests,
            seeds=self.seeds,
            ceiling=ceiling,
            details=self.details,
        )


def judge(
    attacks: Sequence[AttributeScores], test: Observed, *, requests: Sequence[int]
) -> list[Judged]:
    """Open the truth of the test part and compare, for every m that was attacked."""
    name = attacks[0].attribute
    truth = test.private[name]
    known = np.isin(truth, attacks[0].classes)
    if known.mean() < 0.5:
        raise DataError(
            f"Expected the attacker to have met the test records' values of {name!r}; it met "
            f"{known.mean():.0%} of them. Audit such an attribute with known users."
        )
    constant = test.users is not None and _constant(truth, test.users)
    why: dict[str, str] = {}
    judged = []
    for m in sorted(set(requests)):
        if m not in attacks[0].groups:
            why[str(m)] = "no user has enough records, or the attribute varies within a user"
        elif m > 1 and not constant:
            why[str(m)] = "the attribute varies within a user of the test part"
        else:
            judged.append(_judge_one(attacks, test, truth, known, m))
    if why and judged:
        judged[0] = _with_details(judged[0], {"not pooled": why})
    return judged


def _judge_one(
    attacks: Sequence[AttributeScores],
    test: Observed,
    truth: NDArray[np.int64],
    known: NDArray[np.bool_],
    m: int,
) -> Judged:
    columns: list[NDArray[np.float64]] = []
    families = [name for name in attacks[0].families if all(name in a.families for a in attacks)]
    values, clusters, of_seed, rows_of, areas = [], [], [], [], []
    for index, scores in enumerate(attacks):
        groups = scores.groups[m]
        rows = groups.members[:, 0]
        kept = known[rows]
        target = np.searchsorted(scores.classes, truth[rows[kept]])
        prior = scores.log_prior
        attack, floor = scores.pooled(m)[kept], scores.pooled_floor(m)[kept]
        others = [scores.pooled(m, family)[kept] for family in families]
        decided = [attack, floor, *others]
        decided += [score + prior for score in decided]
        columns.append(
            np.stack([score.argmax(axis=1) == target for score in decided], axis=1).astype(float)
        )
        values.append(target)
        clusters.append(rows[kept] if test.users is None else test.users[rows[kept]])
        rows_of.append(rows[kept])
        of_seed.append(np.full(int(kept.sum()), index))
        if len(prior) == 2:
            areas.append((_area(attack, target), _area(floor, target)))
    hits, kind = np.concatenate(columns), np.concatenate(values)
    owner = np.concatenate(clusters)
    seed_of = np.concatenate(of_seed)
    every = bootstrap_balanced(hits[:, : 2 + len(families)], kind, owner)
    better = _overruling(every)
    used = [better or 0, 1]
    balanced = every.columns(used)
    shift = 2 + len(families)
    plain = bootstrap_balanced(
        hits[:, [shift + column for column in used]], np.zeros_like(kind), owner
    )
    accuracy_excess, accuracy_ci = plain.difference(0, 1)
    first = attacks[0]
    details: dict[str, Any] = {
        "chosen family by seed": [scores.chosen[m] for scores in attacks],
        "value by seed": [
            float(_mean_recall(hits[seed_of == index, used[0]], kind[seed_of == index]))
            for index in range(len(attacks))
        ],
        "value by family": _by_family(attacks, truth, known, m),
        "accuracy": {
            "value": float(plain.values[0]),
            "floor": float(plain.values[1]),
            "excess": accuracy_excess,
            "excess_ci": list(accuracy_ci),
        },
        "chance": 1.0 / len(np.unique(kind)),
        "interval": "bootstrap over " + ("records" if test.users is None else "users"),
        "independent units": len(np.unique(owner)),
        "users left out": first.groups[m].left_out,
        "records of unknown value left out": int((~known).sum()),
    }
    if test.users is not None and m == 1:
        # Narrower, for these very users only: records are taken as independent.
        of_records = bootstrap_balanced(hits[:, used], kind, np.concatenate(rows_of))
        details["excess_ci over records"] = list(of_records.difference(0, 1)[1])
    if better is not None:
        details["choice overruled"] = {
            "by": families[better - 2],
            "value of the choice": float(every.values[0]),
        }
    if areas:
        details["area under ROC"] = {
            "value": float(np.mean([area for area, _floor in areas])),
            "floor": float(np.mean([floor for _area, floor in areas])),
        }
    return Judged(
        attribute=first.attribute,
        requests=m,
        seeds=len(attacks),
        n=int((seed_of == 0).sum()),
        balanced=balanced,
        details=details,
    )


def _overruling(every: Bootstrap) -> int | None:
    """The column of a family shown to beat the chosen attacker by over a point; columns 0, 1 are
    the chosen attacker and the floor, the rest families. One-sided limits, Bonferroni over them.
    """
    count = every.samples.shape[1] - 2
    limits = [
        every.difference(column, 0, confidence=1 - 2 * _OVERRULE / count)[1][0]
        for column in range(2, 2 + count)
    ]
    shown = [column for column, low in enumerate(limits, start=2) if low > _POINT]
    return max(shown, key=lambda column: float(every.values[column]), default=None)


def _by_family(
    attacks: Sequence[AttributeScores],
    truth: NDArray[np.int64],
    known: NDArray[np.bool_],
    m: int,
) -> dict[str, float]:
    """Mean test balanced accuracy of each family over seeds: a diagnosis."""
    found: dict[str, list[float]] = {}
    for scores in attacks:
        rows = scores.groups[m].members[:, 0]
        kept = known[rows]
        target = np.searchsorted(scores.classes, truth[rows[kept]])
        for family in scores.families:
            hits = scores.pooled(m, family)[kept].argmax(axis=1) == target
            found.setdefault(family, []).append(_mean_recall(hits, target))
    return {family: float(np.mean(values)) for family, values in found.items()}


def _mean_recall(hits: NDArray[Any], target: NDArray[np.int64]) -> float:
    return float(np.mean([hits[target == value].mean() for value in np.unique(target)]))


def _area(scores: NDArray[np.float64], target: NDArray[np.int64]) -> float:
    """Area under the ROC curve of value 1 against value 0 (Mann-Whitney, ties count half)."""
    positives = int((target == 1).sum())
    negatives = len(target) - positives
    if positives == 0 or negatives == 0:
        return 0.5
    ranks = rankdata(scores[:, 1] - scores[:, 0])
    above = ranks[target == 1].sum() - positives * (positives + 1) / 2
    return float(above / (positives * negatives))


def _constant(values: NDArray[np.int64], users: NDArray[np.int64]) -> bool:
    _names, first, inverse = np.unique(users, return_index=True, return_inverse=True)
    return bool(np.array_equal(values, values[first][inverse]))


def _with_details(judged: Judged, more: Mapping[str, Any]) -> Judged:
    return Judged(
        attribute=judged.attribute,
        requests=judged.requests,
        seeds=judged.seeds,
        n=judged.n,
        balanced=judged.balanced,
        details={**judged.details, **more},
    )
