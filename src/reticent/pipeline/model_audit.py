"""Auditing a finished model: the user's own, with the user's own records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from reticent.attacks.shadow.recipe import TrainingRecipe
from reticent.attacks.spec import Access
from reticent.attacks.target import Outputs, Victim
from reticent.audit.material import Material
from reticent.audit.reconstruction import Reconstruction
from reticent.audit.register import ENTRIES
from reticent.audit.scorecard import (
    Method,
    Replay,
    Scorecard,
    TaskSummary,
    Utility,
    by_pillar,
)
from reticent.audit.statistics import bootstrap_ratio
from reticent.audit.suite import Outcome, Report, Settings, run_suite
from reticent.data.task import Task
from reticent.guarantee import Guarantee
from reticent.inference.split.harden import Hardened
from reticent.pipeline.recipe import AuditTable
from reticent.pipeline.score import data_digest, versions
from reticent.pipeline.stage import Stage
from reticent.report import Gallery

Rows = NDArray[Any]
Keep = Callable[[Gallery], None]


def audit_model(
    model: Any,
    task: Task,
    *,
    members: Rows,
    non_members: Rows,
    population: Rows | None = None,
    attacks: Sequence[str] = ("all",),
    access: str | Access = Access.SHADOW,
    recipe: TrainingRecipe | None = None,
    claims: Sequence[Guarantee] = (),
    undefended: Any = None,
    outputs: Outputs = "logits",
    shadows: int = 64,
    seed: int = 0,
    report: Report = lambda text: None,
    keep: Keep | None = None,
    command: str | None = None,
) -> Scorecard:
    """The scorecard of a model that was trained anywhere, attacked with the records of `task`.

    `model` is a PyTorch classifier in evaluation mode (its `outputs` are "logits" or
    "probabilities"), a fitted scikit-learn classifier with classes 0..C-1, a function from records
    to probabilities (n, C), or a `Victim`. `members`, `non_members` and `population` are rows of
    the task (indices or masks): what it was trained on, what it was not, and what an adversary may
    own besides. `access` is how much the adversary sees ("L1" labels, "L2" scores, "L3" how it was
    trained too, "L4" gradients, "L5" weights). `recipe` says how the model was trained; membership
    inference with reference models needs it. `undefended` is a twin without protection, for
    utility. `claims` are what the provider states; each is judged. `keep` gets the records that
    attackers rebuilt, as pictures for `write_report`. Raises `ConfigError` and
    `DataError` before anything is attacked when model and records don't fit.
    """
    level = access if isinstance(access, Access) else Access.parse(access)
    material = Material.of_task(
        task, members=members, non_members=non_members, population=population
    )
    victim = as_victim(model, material.members.x, outputs=outputs, recipe=recipe)
    settings = Settings(
        access=level,
        guarantees=tuple(claims),
        shadows=shadows,
        seed=seed,
        report=report,
        keep=lambda pictures: None if keep is None else keep(_gallery(pictures)),
    )
    outcome = run_suite(victim, material, attacks=attacks, entries=ENTRIES, settings=settings)
    return Scorecard(
        task=TaskSummary.of(task, public=task.label),
        method=Method(
            name=type(victim.model).__name__,
            parameters={"access": str(level), "shadows": shadows, "attacks": ", ".join(attacks)},
        ),
        utility=_utility(victim, undefended, material, outputs),
        cost=None,
        replay=Replay(
            command=command or f"reticent.audit_model(..., access={level.name!r}, seed={seed})",
            versions=versions(),
            seeds=(seed,),
            data_digest=data_digest(task),
        ),
        pillars=by_pillar(claims, outcome.findings),
        notices=_notices(task, victim, material),
        untested=outcome.untested,
    )


def audit_service(
    stage: Stage,
    hardened: Hardened,
    audit: AuditTable | None,
    *,
    seed: int,
    report: Report,
    training: TrainingRecipe | None = None,
) -> Outcome:
    """What the further attacks of `audit` find out from the answers of a hardened deployment.

    The service is asked as any client may ask it; nobody can train reference models like it
    without the provider's own hardening, so access ends at L2. A model that is served as it was
    trained, by `training`, can be imitated: there the claims of its training are judged too, with
    reference models at L3. Without attacks: nothing.
    """
    if audit is None or not audit.attacks:
        return Outcome(findings=(), untested={})
    parts = stage.partition
    material = Material.of_task(
        stage.task,
        members=parts.train,
        non_members=parts.test,
        population=parts.attacker_train,
    )
    if training is not None:
        victim = Victim.of_module(
            stage.model, sample=material.members.x, outputs="logits", recipe=training
        )
    else:
        victim = Victim.of_function(
            lambda x: hardened.halves.predict(np.asarray(x, dtype=np.float32), seed=seed),
            sample=material.members.x,
            outputs="logits",
        )
    settings = Settings(
        access=Access.parse(audit.access),
        guarantees=stage.guarantees,
        shadows=audit.shadows,
        seed=seed,
        report=report,
    )
    return run_suite(victim, material, attacks=audit.attacks, entries=ENTRIES, settings=settings)


def as_victim(
    model: Any,
    sample: NDArray[np.float32],
    *,
    outputs: Outputs = "logits",
    recipe: TrainingRecipe | None = None,
) -> Victim:
    """Whatever the user calls a model, as the attacks take it."""
    if isinstance(model, Victim):
        return model
    if isinstance(model, nn.Module):
        return Victim.of_module(model, sample=sample, outputs=outputs, recipe=recipe)
    if hasattr(model, "predict"):
        return Victim.of_estimator(model, sample=sample, recipe=recipe)
    function: Callable[[Any], Any] = model
    return Victim.of_function(function, sample=sample, outputs=outputs, recipe=recipe)


def _gallery(pictures: Reconstruction) -> Gallery:
    return Gallery(
        inputs=pictures.inputs,
        plain=pictures.best,
        label_only=pictures.floor,
        plain_note=pictures.method,
        titles=("What the model was trained on", "What an attacker rebuilds", ""),
        inputs_note="private",
    )


def _utility(victim: Victim, twin: Any, material: Material, outputs: Outputs) -> Utility | None:
    """Accuracy on the non-members beside that of the undefended twin, where there is one."""
    if twin is None:
        return None
    test = material.non_members
    other = as_victim(twin, test.x, outputs=outputs)
    right = [(part.labels(test.x) == test.y).astype(np.float64) for part in (other, victim)]
    owners = np.arange(len(test)) if test.users is None else test.users
    ratio = bootstrap_ratio(np.stack(right, axis=1), np.ones(len(test)), owners)
    loss, ci = ratio.difference(0, 1)
    return Utility(
        metric="accuracy",
        baseline=float(right[0].mean()),
        protected=float(right[1].mean()),
        loss=loss,
        ci=ci,
        n=len(test),
    )


def _notices(task: Task, victim: Victim, material: Material) -> tuple[str, ...]:
    scores = [
        float((victim.labels(part.x) == part.y).mean())
        for part in (material.members, material.non_members)
    ]
    notices = [
        f"The model's accuracy is {scores[0]:.3f} on {len(material.members):,} members and "
        f"{scores[1]:.3f} on {len(material.non_members):,} non-members.",
        "A membership score is evidence about a training procedure, never proof about one record.",
    ]
    if task.synthetic:
        notices.insert(0, "The data are SYNTHETIC: nothing here is about real people.")
    if material.dropped:
        notices.append(
            f"{material.dropped} non-members equalled a member record and were left out."
        )
    return tuple(notices)
