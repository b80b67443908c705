"""The attacks on one hardened deployment: attributes, inputs, controls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reticent.attacks.finding import Finding
from reticent.attacks.view import Observed, ServerView
from reticent.audit.attribute import audit_attributes
from reticent.audit.controls import controls
from reticent.audit.decoding import few_shot_decoding
from reticent.audit.family import judged
from reticent.audit.frontier import Point
from reticent.audit.reconstruction import audit_reconstruction
from reticent.data.partition import Regime
from reticent.data.task import Task
from reticent.errors import GateError
from reticent.guarantee import Pillar
from reticent.inference.sealed.method import SealedHead
from reticent.inference.sealed.release import Sealed
from reticent.inference.split.harden import Hardened
from reticent.inference.split.release import Code
from reticent.pipeline.encrypted_traffic import audit_chosen, audit_sizes, audit_weights
from reticent.pipeline.latency import query_ms
from reticent.pipeline.recipe import AuditTable, Recipe
from reticent.pipeline.stage import Report, Stage, prepare, regimes
from reticent.report import Gallery

# Above this floor a planted leak can't stand out any more.
_NO_ROOM = 0.9


@dataclass(frozen=True, kw_only=True)
class Attacked:
    """One regime, its hardened deployment, what the attacks found, and pictures of it.

    `untested` maps each attack on the channel that was not run to the reason.
    """

    stage: Stage
    hardened: Hardened
    findings: tuple[Finding, ...]
    gallery: Gallery | None = None
    untested: Mapping[str, str] = field(default_factory=dict)


def attack_stage(
    recipe: Recipe,
    task: Task,
    regime: Regime,
    names: Sequence[str],
    *,
    report: Report,
    keep: Callable[[Stage], None] = lambda stage: None,
) -> Attacked:
    """Prepare one regime, harden its model, attack `names` and the input (no names: neither).

    `keep` gets the stage as soon as its model is trained.
    """
    stage = prepare(recipe, task, regime, report=report)
    keep(stage)
    if recipe.inference.method is not None:
        report(f"harden ({recipe.inference.method}, {regime} users)")
    hardened = stage.harden(recipe)
    if isinstance(hardened.halves.head, SealedHead):
        report(hardened.halves.head.layout.plan.describe())
    if not names:
        return Attacked(stage=stage, hardened=hardened, findings=())
    return attack(
        stage, hardened, names, audit=recipe.audit, seed=recipe.seed, report=report, full=True
    )


def attack(
    stage: Stage,
    hardened: Hardened,
    names: Sequence[str],
    *,
    audit: AuditTable,
    seed: int,
    report: Report,
    full: bool,
    ceilings: Sequence[Finding] | None = None,
) -> Attacked:
    """Attack one hardened deployment; `full` adds controls, reconstruction and pictures."""
    seeds = tuple(range(seed, seed + audit.seeds))
    view = stage.protected(hardened, seed=seed)
    naive = stage.undefended(hardened.cut)
    settings: dict[str, Any] = {
        "attributes": names,
        "requests": audit.requests,
        "seeds": seeds,
        "families": audit.families or None,
        "quick": audit.quick,
    }
    regime = stage.partition.regime
    if ceilings is None:
        report(f"attack the undefended cut ({', '.join(names)})")
        ceilings = audit_attributes(naive, **settings)
    report(f"attack {hardened.label} ({', '.join(names)})")

    def attributes(seen: ServerView) -> list[Finding]:
        return audit_attributes(
            seen, undefended=ceilings, guarantees=hardened.guarantees, **settings
        )

    findings = _replicated(attributes, view, stage, hardened, seed)
    gallery = None
    untested: Mapping[str, str] = {}
    if full:
        report("rebuild inputs from what the server sees")
        rebuilt, gallery = _reconstruct(
            view, naive, hardened, stage.task.class_names, seed=seed, quick=audit.quick
        )
        findings.append(rebuilt)
        _check_controls(view, names[0], seed)
        if isinstance(hardened.halves.release, Sealed):
            report("guess the answer from ciphertexts")

            def answers(seen: ServerView) -> list[Finding]:
                return _answers(seen, stage, hardened, settings)

            findings += _replicated(answers, view, stage, hardened, seed)
            findings += audit_sizes(stage, hardened, seed=seed)
            report("tell chosen inputs apart by size, number and time; solve replies for weights")
            findings += _seen_twice(lambda: audit_chosen(hardened, seed=seed))
            weights, untested = audit_weights(hardened, seed=seed)
            findings += weights
    return Attacked(
        stage=stage,
        hardened=hardened,
        findings=tuple(_in_regime(finding, regime) for finding in findings),
        gallery=gallery,
        untested=untested,
    )


def _replicated(
    measure: Callable[[ServerView], list[Finding]],
    view: ServerView,
    stage: Stage,
    hardened: Hardened,
    seed: int,
) -> list[Finding]:
    """What `measure` finds; where it contradicts a sealed deployment, what it finds once more.

    Ciphertexts are drawn afresh each time. An attack that guesses right by chance, as one in twenty
    families does at 95 % confidence, doesn't do so again on fresh ones; a leak does.
    """
    if not isinstance(hardened.halves.release, Sealed):
        return measure(view)
    views = iter((lambda: view, lambda: stage.protected(hardened, seed=seed)))
    return _seen_twice(lambda: measure(next(views)()))


def _seen_twice(measure: Callable[[], list[Finding]]) -> list[Finding]:
    """What `measure` finds, on fresh ciphertexts each time; a contradiction is measured again."""
    found = measure()
    if not any(one.contradicts for one in found):
        return found
    again = measure()
    note = {"replicated": "a first measurement contradicted; this one is on fresh ciphertexts"}
    return [replace(one, details={**one.details, **note}) for one in again]


def _answers(
    view: ServerView, stage: Stage, hardened: Hardened, settings: Mapping[str, Any]
) -> list[Finding]:
    """Attacks on the answer itself, which an undefended server computes: ceiling 1."""
    parts = stage.partition

    def asking(part: Observed, rows: NDArray[np.int64]) -> Observed:
        answers = stage.answers.index_outputs(hardened.halves.predict(stage.task.take(rows).x))
        return replace(part, private={"answer": answers})

    asked = replace(
        view,
        attacker_train=asking(view.attacker_train, parts.attacker_train),
        attacker_validation=asking(view.attacker_validation, parts.attacker_validation),
        test=asking(view.test, parts.test),
    )
    found = audit_attributes(asked, **{**settings, "attributes": ("answer",), "requests": (1,)})
    return list(
        judged(
            [replace(one, pillar=Pillar.OUTPUT, ceiling=1.0) for one in found], hardened.guarantees
        )
    )


def frontier(recipe: Recipe, first: Attacked, *, report: Report) -> tuple[Point, ...]:
    """Other methods on the same stage, as points beside the chosen one."""
    points = []
    for name in recipe.audit.frontier:
        method, _, cut = name.partition("@")
        options = {} if method != recipe.inference.method else recipe.inference.options
        report(f"compare with {name}")
        hardened = first.stage.harden(
            recipe,
            method=method,
            cut=cut or first.hardened.cut,
            codes=None,
            retrain=None,
            options=options,
        )
        points.append(measured_point(recipe, first.stage, hardened, report=report))
    return tuple(points)


def measured_point(
    recipe: Recipe,
    stage: Stage,
    hardened: Hardened,
    *,
    report: Report,
    ceilings: Sequence[Finding] | None = (),
    names: Sequence[str] | None = None,
    chosen: bool = False,
) -> Point:
    """One deployment as a point of the frontier, attacked without pictures and controls."""
    wanted = names or [
        name
        for name, found in regimes(recipe, stage.task).items()
        if stage.partition.regime in found
    ]
    attacked = attack(
        stage,
        hardened,
        wanted,
        audit=recipe.audit,
        seed=recipe.seed,
        report=report,
        full=False,
        ceilings=ceilings,
    )
    worst = max(attacked.findings, key=lambda found: found.excess)
    return Point(
        method=hardened.method,
        parameters={"cut": hardened.cut, **hardened.options},
        utility=float(stage.test_outcomes(hardened, seed=recipe.seed).mean()),
        excess=worst.excess,
        excess_ci=worst.excess_ci,
        target=worst.target,
        requests=worst.requests,
        client_flops_share=hardened.costs.client_flops_share,
        few_shot=shots_of(few_shot(stage, hardened)),
        alone=stage.alone(hardened, recipe),
        latency_ms=query_ms(stage, hardened),
        guaranteed=hardened.guarantees[0].allowed_excess() is not None,
        contradicted=any(found.contradicts for found in attacked.findings),
        chosen=chosen,
    )


def _reconstruct(
    view: ServerView,
    naive: ServerView,
    hardened: Hardened,
    names: tuple[str, ...],
    *,
    seed: int,
    quick: bool,
) -> tuple[Finding, Gallery | None]:
    ceiling, plain = audit_reconstruction(naive, seeds=(seed,), quick=quick)
    finding, hard = audit_reconstruction(
        view,
        undefended=ceiling,
        seeds=(seed,),
        guarantees=hardened.guarantees,
        quick=quick,
        like=plain,
    )
    shared = np.isin(plain.rows, hard.rows)
    if not shared.any():
        return finding, None
    gallery = Gallery(
        inputs=hard.inputs,
        plain=plain.best[shared],
        protected=hard.best,
        label_only=hard.floor,
        captions=tuple(names[label] for label in view.test.predicted[hard.rows]) if names else (),
        plain_note=f"{plain.method}: explains {max(ceiling.value, 0):.0%} beyond the class mean",
        protected_note=f"{hard.method}: explains {max(finding.value, 0):.0%} beyond the class mean",
    )
    return finding, gallery


def _check_controls(view: ServerView, name: str, seed: int) -> None:
    """A failed control voids the audit: it is refused, not footnoted.

    Where the public label already gives the attribute away there is no room for a leak, planted
    or real, and the scorecard's own rule calls such findings inconclusive.
    """
    for control in controls(view, attribute=name, seed=seed):
        finding = control.finding
        if control.passed or (control.leaky and finding.floor > _NO_ROOM):
            continue
        raise GateError(
            f"The audit's control {control.name!r} failed on attribute {name!r}: excess "
            f"{finding.excess:.3f}, interval {finding.excess_ci}. The attacks have no power "
            "on these data, or the split leaks. Give more records, or another seed."
        )


def few_shot(stage: Stage, hardened: Hardened) -> list[Finding]:
    """How well a client decodes the public label with 1 or 5 labelled records per class."""
    test, release = stage.records("test"), hardened.halves.release
    sent, alphabet = hardened.halves.features(test.x), None
    if isinstance(release, Code):
        sent, alphabet = release.nearest(sent).astype(np.float32)[:, None], release.alphabet
    return few_shot_decoding(
        sent,
        stage.answers.index_labels(test.public),
        alphabet=alphabet,
        users=test.users,
    )


def shots_of(findings: Sequence[Finding]) -> dict[int, float]:
    """Labelled examples per class to decoding accuracy."""
    return {int(found.details["shots"]): found.value for found in findings}


def _in_regime(finding: Finding, regime: Regime) -> Finding:
    return replace(finding, details={**finding.details, "regime": regime})
