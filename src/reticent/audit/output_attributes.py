"""Attribute inference from outputs, judged against imputation, for members and for others.

What holds for members and others alike is inference about a population that the model has
learnt; only the gap between them is a leak of the training records.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from reticent.attacks.attribute.imputation import FAMILIES, Sensitive, impute
from reticent.attacks.attribute.inference import AttributeScores
from reticent.attacks.attribute.outputs import (
    SPEC,
    Answers,
    ask,
    confidence_guess,
    label_guess,
    matching_guess,
    posterior_guess,
)
from reticent.attacks.finding import Finding
from reticent.attacks.shadow.estimators import fit_estimator, is_estimator
from reticent.attacks.shadow.training import train_models
from reticent.attacks.spec import Access, Labelled
from reticent.attacks.target import LabelTarget, ScoreTarget, Victim
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
    observed: bool = False,
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
    level; at shadow level the attackers learn on the answers of models of their own about their
    members, trained on `own` as the victim's recipe says, so that they know how a model answers
    about records that it was trained on. The gap's value and floor are the members' and the
    others' excess for the trained attackers; where values can be tried there is a second gap, of
    guessing by confidence, which needs no records: there they are the two accuracies.

    With `observed` the adversary also saw the answer that each person got to the true record, and
    may compare it with those to the tried values.

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
    if observed and sensitive is None:
        raise ConfigError("Expected sensitive beside observed: nothing else could be tried.")

    def seen(asked: ScoreTarget | LabelTarget, people: Labelled) -> NDArray[np.float64] | None:
        return ask(asked, people, None, access=access).logs[:, 0] if observed else None

    answers = ask(target, tested, sensitive, access=access)
    answers = replace(answers, seen=seen(target, tested))
    if access is Access.SHADOW:
        of_own = _shadow_answers(victim, own, sensitive, seed, observed=observed)
    else:
        of_own = ask(target, own.records, sensitive, access=access)
        of_own = replace(of_own, seen=seen(target, own.records))

    def attack(outputs: tuple[NDArray[np.float32], NDArray[np.float32]] | None) -> AttributeScores:
        return impute(
            own.records,
            own.attribute,
            tested,
            classes=victim.classes,
            sensitive=sensitive,
            outputs=outputs,
            families=families,
            requests=requests,
            seed=seed,
        )

    floor = attack(None)
    plain = (of_own.columns(own.records.y), answers.columns(tested.y))
    scores = attack(plain)
    loud = attack((_planted(plain[0], own.attribute), _planted(plain[1], truth)))
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
            beyond = way == "trained"
            findings.append(_gap(both, f"{name} ({way})", len(members.attribute), beyond))
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


def _shadow_answers(
    victim: Victim, own: People, sensitive: Sensitive | None, seed: int, *, observed: bool
) -> Answers:
    """Answers about each of `own` by a model trained as the victim was, and on that person too.

    As few models as it takes for everybody to be a member of one; the last one's set is filled up
    with people who are also another's.
    """
    handle = victim.at_shadow()
    recipe, architecture = handle.recipe, handle.architecture
    count, size = len(own.records), recipe.size
    if size + recipe.held_out > count:
        raise DataError(
            f"Expected {size + recipe.held_out} own records or more to train models like the "
            f"victim, got {count}."
        )
    mixed = seeded(seed, 362).permutation(count)
    starts = [min(start, count - size) for start in range(0, count, size)]
    masks = np.stack([np.isin(np.arange(count), mixed[start : start + size]) for start in starts])
    sample, logs = own.records.x[:32], None
    seen = np.empty((count, victim.classes)) if observed else None
    models = (
        (
            fit_estimator(
                architecture, own.records.x[mask], own.records.y[mask], seed=seed, number=number
            )
            for number, mask in enumerate(masks)
        )
        if is_estimator(architecture)
        else train_models(architecture, recipe, own.records, masks, seed=seed)
    )
    for model, mask in zip(models, masks, strict=True):
        trained = (
            Victim.of_module(model.eval(), sample=sample)
            if isinstance(model, nn.Module)
            else Victim.of_estimator(model, sample=sample)
        )
        told = ask(trained.at_scores(), own.records.take(mask), sensitive).logs
        if logs is None:
            logs = np.empty((count, *told.shape[1:]))
        logs[mask] = told
        if seen is not None:
            seen[mask] = ask(trained.at_scores(), own.records.take(mask), None).logs[:, 0]
    assert logs is not None
    return Answers(logs=logs, graded=True, seen=seen)


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
    if answers.seen is not None:
        made["matching"] = matching_guess(answers)
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


def _gap(both: Mapping[str, Bootstrap], target: str, n: int, beyond: bool) -> Finding:
    """Success on members less success on others, each `beyond` imputation or as it is."""
    samples, values, intervals = [], [], []
    for boot in both.values():
        if beyond:
            value, interval = boot.difference(0, 1)
            samples.append(boot.samples[:, 0] - boot.samples[:, 1])
        else:
            value, interval = float(boot.values[0]), boot.interval(0)
            samples.append(boot.samples[:, 0])
        values.append(value)
        intervals.append(interval)
    clusters = min(boot.clusters for boot in both.values())
    return Finding(
        attack=GAP,
        pillar=Pillar.TRAINING_DATA,
        adversary=CLIENT.name,
        target=target,
        metric=f"{METRIC} beyond imputation" if beyond else METRIC,
        value=values[0],
        ci=intervals[0],
        floor=values[1],
        excess=values[0] - values[1],
        # The two bootstraps share their seed: reversing one makes the draws independent.
        excess_ci=expanded_interval(samples[0] - samples[1][::-1], clusters),
        n=n,
        details={"non-members' interval": list(intervals[1])},
    )
