"""Attribute inference from outputs, judged against imputation, for members and for others.

What holds for members and others alike is inference about a population that the model has
learnt; only the gap between them is a leak of the training records.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reticent.attacks.attribute.imputation import FAMILIES, Sensitive, impute
from reticent.attacks.attribute.inference import AttributeScores
from reticent.attacks.attribute.outputs import (
    SPEC,
    Answers,
    ask,
    confidence_guess,
    label_guess,
    posterior_guess,
)
from reticent.attacks.finding import Finding
from reticent.attacks.shadow.estimators import fit_estimator, is_estimator
from reticent.attacks.shadow.training import train_models
from reticent.attacks.spec import Access, Labelled
from reticent.attacks.target import Victim
from reticent.audit.statistics import Bootstrap, bootstrap_balanced, expanded_interval
from reticent.errors import ConfigError, DataError
from reticent.guarantee import CLIENT, Pillar
from reticent.random import seeded

ATTACK = SPEC.name
GAP = "attribute inference from outputs: members beyond others"
METRIC = "balanced accuracy"
Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True, eq=False)
class People:
    """Records with the truth about one attribute, `attribute` (n,) in 0..k-1."""

    records: Labelled
    attribute: NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.attribute.shape != (len(self.records),):
            raise DataError(
                f"Expected the attribute of {len(self.records)} people, got "
                f"shape={self.attribute.shape}."
            )


def audit_output_attributes(
    victim: Victim,
    members: People,
    non_members: People,
    own: People,
    *,
    name: str = "attribute",
    sensitive: Sensitive | None = None,
    access: Access = Access.SCORES,
    requests: Sequence[int] = (1,),
    families: Sequence[str] = FAMILIES,
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[Finding, ...]:
    """Findings for members, for non-members (each m of `requests`), and on the gap between them.

    Value is the balanced accuracy of attackers with the model's answers, floor that of the same
    attackers without them, both trained on `own` (people in neither group); excess is their
    paired difference. The adversary takes whichever of the two did better on its own validation
    part, so answers that don't help have an excess of exactly 0. `sensitive` says where the
    attribute stands in a record (None: it is no input). `access` is label, scores or shadow
    level; at shadow level the attackers learn on the answers of a model of their own about its
    members, trained on `own` as the victim's recipe says, so that they know how a model answers
    about records that it was trained on. The gap's value and floor are the members' and the
    others' excess; one gap is of the trained attackers, one (where values can be tried) of
    guessing by confidence, which needs no records.

    Positive control, also the ceiling: the same attack with the attribute written into an answer.
    Negative control: answers dealt to other people. Raises `DataError` where an attribute column
    doesn't hold the stated values.
    """
    if access not in (Access.LABEL, Access.SCORES, Access.SHADOW):
        raise ConfigError(f"Expected access from label to shadow level, got access={access}.")
    groups = {"members": members, "non-members": non_members}
    if sensitive is not None:
        for people in (*groups.values(), own):
            if not np.array_equal(sensitive.read(people.records.x), people.attribute):
                raise DataError(
                    f"Expected {name!r} to be what the records hold in columns "
                    f"{sensitive.columns}; it differs."
                )
    tested, truth, group = _joined(groups)
    if progress is not None:
        progress(f"attribute inference from outputs: {name}, {len(tested)} people")
    target = victim.at_label() if access is Access.LABEL else victim.at_scores()
    answers = ask(target, tested, sensitive, access=access)
    taught, shadow = own, target
    if access is Access.SHADOW:
        taught, trained = _shadow(victim, own, seed)
        shadow = trained.at_scores()
    of_own = ask(shadow, taught.records, sensitive, access=access)

    def attack(outputs: tuple[NDArray[np.float32], NDArray[np.float32]] | None) -> AttributeScores:
        teaching = own if outputs is None else taught
        return impute(
            teaching.records,
            teaching.attribute,
            tested,
            classes=victim.classes,
            sensitive=sensitive,
            outputs=outputs,
            families=families,
            requests=requests,
            seed=seed,
        )

    floor = attack(None)
    plain = (of_own.columns(taught.records.y), answers.columns(tested.y))
    scores = attack(plain)
    loud = attack((_planted(plain[0], taught.attribute), _planted(plain[1], truth)))
    rng = seeded(seed, 361)
    mute = attack((rng.permutation(plain[0]), rng.permutation(plain[1])))
    direct = _direct(answers, tested, sensitive, floor.log_prior, seed)
    findings: list[Finding] = []
    boots: dict[str, Bootstrap] = {}
    guessed: dict[str, Bootstrap] = {}
    for m in sorted(set(requests)):
        for index, label in enumerate(groups):
            judged = _judge(scores, floor, truth, group == index, tested.users, m, seed)
            if judged is None:
                continue
            boot, count, taken = judged
            ceiling = _judge(loud, floor, truth, group == index, tested.users, m, seed)
            null = _judge(mute, floor, truth, group == index, tested.users, m, seed)
            assert ceiling is not None
            assert null is not None
            more: dict[str, Any] = {
                "level": str(access),
                "queries a person": answers.logs.shape[1],
                "answers used": taken,
                "chosen family": scores.chosen[m],
                "chosen family without answers": floor.chosen[m],
                "positive control": {
                    "answers": "with the attribute written into one",
                    "passed": ceiling[0].difference(0, 1)[1][0] > 0,
                },
                "negative control": {
                    "answers": "of other people",
                    "passed": null[0].difference(0, 1)[1][0] <= 0,
                },
            }
            if m == 1:
                boots[label] = boot
                rows = np.flatnonzero(group == index)
                found, guessed[label] = _judge_direct(
                    direct, floor, truth, rows, tested.users, seed
                )
                more |= {"without own records": found}
            findings.append(
                _finding(boot, f"{name} of {label}", count, m, float(ceiling[0].values[0]), more)
            )
    for way, both in (("trained", boots), ("confidence", guessed if direct else {})):
        if len(both) == 2:
            findings.append(_gap(both, f"{name} ({way})", len(members.attribute)))
    return tuple(findings)


def _joined(
    groups: Mapping[str, People],
) -> tuple[Labelled, NDArray[np.int64], NDArray[np.int64]]:
    """All people in one, so that attackers train once; users stay apart by group."""
    parts = list(groups.values())
    users = None
    if all(part.records.users is not None for part in parts):
        shift, shifted = 0, []
        for part in parts:
            assert part.records.users is not None
            codes = np.unique(part.records.users, return_inverse=True)[1].reshape(-1)
            shifted.append(codes + shift)
            shift += int(codes.max()) + 1
        users = np.concatenate(shifted)
    return (
        Labelled(
            x=np.concatenate([part.records.x for part in parts]),
            y=np.concatenate([part.records.y for part in parts]),
            users=users,
        ),
        np.concatenate([part.attribute for part in parts]),
        np.repeat(np.arange(len(parts)), [len(part.records) for part in parts]),
    )


def _shadow(victim: Victim, own: People, seed: int) -> tuple[People, Victim]:
    """A model trained as the victim was, on a random part of `own`, and that part."""
    handle = victim.at_shadow()
    recipe, architecture = handle.recipe, handle.architecture
    if recipe.size + recipe.held_out > len(own.records):
        raise DataError(
            f"Expected {recipe.size + recipe.held_out} own records or more to train a model like "
            f"the victim, got {len(own.records)}."
        )
    rows = np.sort(seeded(seed, 362).permutation(len(own.records))[: recipe.size])
    members = People(records=own.records.take(rows), attribute=own.attribute[rows])
    sample = members.records.x[:32]
    if is_estimator(architecture):
        made = fit_estimator(
            architecture, members.records.x, members.records.y, seed=seed, number=0
        )
        return members, Victim.of_estimator(made, sample=sample)
    mask = np.isin(np.arange(len(own.records)), rows)[None]
    module = next(iter(train_models(architecture, recipe, own.records, mask, seed=seed)))
    return members, Victim.of_module(module.eval(), sample=sample)


def _planted(outputs: NDArray[np.float32], values: NDArray[np.int64]) -> NDArray[np.float32]:
    spread = max(float(outputs[:, 0].std()), 1e-3)
    marked = outputs.copy()
    marked[:, 0] = 10 * spread * values
    return marked


def _judge(
    scores: AttributeScores,
    floor: AttributeScores,
    truth: NDArray[np.int64],
    wanted: NDArray[np.bool_],
    users: NDArray[np.int64] | None,
    m: int,
    seed: int,
) -> tuple[Bootstrap, int, bool] | None:
    """Attack and imputation on the groups of one part, and whether the answers were used."""
    if m not in scores.groups or m not in floor.groups:
        return None
    rows = scores.groups[m].members[:, 0]
    kept = wanted[rows] & np.isin(truth[rows], scores.classes)
    if not kept.any():
        return None
    goal = np.searchsorted(scores.classes, truth[rows[kept]])
    best = scores.validation[m][scores.chosen[m]]
    used = best > floor.validation[m][floor.chosen[m]]
    chosen = scores if used else floor
    hits = np.stack(
        [one.pooled(m)[kept].argmax(axis=1) == goal for one in (chosen, floor)], axis=1
    ).astype(float)
    units = rows[kept] if users is None else users[rows[kept]]
    return bootstrap_balanced(hits, goal, units, seed=seed), int(kept.sum()), used


def _direct(
    answers: Answers,
    people: Labelled,
    sensitive: Sensitive | None,
    log_prior: NDArray[np.float64],
    seed: int,
) -> dict[str, NDArray[np.int64]]:
    """Guesses that need no training records, by name; none where no value can be tried."""
    if sensitive is None:
        return {}
    made = {"confidence": confidence_guess(answers, people.y)}
    made["labels"] = label_guess(answers, people, sensitive, seed=seed)
    if answers.graded and len(log_prior) == len(sensitive.values):
        made["posterior"] = posterior_guess(answers, people.y, log_prior)
    return made


def _judge_direct(
    direct: Mapping[str, NDArray[np.int64]],
    floor: AttributeScores,
    truth: NDArray[np.int64],
    rows: NDArray[np.int64],
    users: NDArray[np.int64] | None,
    seed: int,
) -> tuple[dict[str, Any], Bootstrap]:
    """Each direct guess beside imputation: details, and the bootstrap (confidence first)."""
    imputed = floor.classes[floor.pooled(1).argmax(axis=1)]
    columns = [guess[rows] == truth[rows] for guess in direct.values()]
    hits = np.stack([*columns, imputed[rows] == truth[rows]], axis=1).astype(float)
    units = rows if users is None else users[rows]
    boot = bootstrap_balanced(hits, truth[rows], units, seed=seed)
    last = len(columns)
    found = {
        way: {
            "value": float(boot.values[column]),
            "excess": boot.difference(column, last)[0],
            "excess_ci": list(boot.difference(column, last)[1]),
        }
        for column, way in enumerate(direct)
    }
    shown = Bootstrap(
        values=boot.values[[0, last]], samples=boot.samples[:, [0, last]], clusters=boot.clusters
    )
    return found, shown


def _finding(
    boot: Bootstrap, target: str, n: int, m: int, ceiling: float, details: Mapping[str, Any]
) -> Finding:
    excess, excess_ci = boot.difference(0, 1)
    return Finding(
        attack=ATTACK,
        pillar=Pillar.OUTPUT,
        adversary=CLIENT.name,
        target=target,
        metric=METRIC,
        value=float(boot.values[0]),
        ci=boot.interval(0),
        floor=float(boot.values[1]),
        excess=excess,
        excess_ci=excess_ci,
        n=n,
        requests=m,
        ceiling=ceiling,
        details=details,
    )


def _gap(both: Mapping[str, Bootstrap], target: str, n: int) -> Finding:
    """The members' excess over imputation less the others': people resampled apart."""
    parts = {label: boot.difference(0, 1) for label, boot in both.items()}
    samples = [boot.samples[:, 0] - boot.samples[:, 1] for boot in both.values()]
    value, ci = parts["members"]
    floor, floor_ci = parts["non-members"]
    clusters = min(boot.clusters for boot in both.values())
    # The two bootstraps share their seed: reversing one makes the draws independent.
    return Finding(
        attack=GAP,
        pillar=Pillar.TRAINING_DATA,
        adversary=CLIENT.name,
        target=target,
        metric="balanced accuracy beyond imputation",
        value=value,
        ci=ci,
        floor=floor,
        excess=value - floor,
        excess_ci=expanded_interval(samples[0] - samples[1][::-1], clusters),
        n=n,
        details={"non-members' interval": list(floor_ci)},
    )
