"""A run: data in, a trained, hardened, attacked, certified and published deployment out."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from reticent.audit.frontier import Point
from reticent.audit.scorecard import Scorecard
from reticent.audit.suite import Outcome
from reticent.data.partition import Regime
from reticent.data.task import Task
from reticent.errors import ConfigError
from reticent.guarantee import SERVER, Pillar
from reticent.inference import bundle as bundles
from reticent.inference.bundle import Bundle
from reticent.inference.split.publish import publish
from reticent.models import checkpoint
from reticent.pipeline.attack import Attacked, attack_stage, frontier
from reticent.pipeline.model_audit import audit_service
from reticent.pipeline.private_audit import audit_stage
from reticent.pipeline.recipe import Recipe
from reticent.pipeline.score import score, versions
from reticent.pipeline.stage import Report, Stage, by_regime, network_options
from reticent.pipeline.subject import RECIPE_FILE, imitated
from reticent.pipeline.tasks import load_task
from reticent.report import model_card, write_report


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a run made."""

    bundle: Bundle
    scorecard: Scorecard
    seconds: float


def run(
    recipe: Recipe, out: Path, *, report: Report, force: bool = False, attacks: bool = True
) -> Result:
    """Train, harden, split, attack, certify and publish what `recipe` describes, into `out`.

    Raises before anything is written when the recipe or its data can't be used. `report` is told
    each step in words. Without `attacks` the claims are published as "not tested".
    """
    started = time.monotonic()
    if recipe.inference.channel == "plain" and not _claims(recipe):
        raise ConfigError(
            "run hardens and attacks what protects; the plain channel is the baseline and has "
            'nothing to protect. Set [inference] channel = "split", "sealed" or "ckks".'
        )
    # A place that is taken must be found before anything is trained, let alone paid for.
    bundles.check_place(out, force=force)
    kept = out.with_name(f"{out.name}-model")
    check_unpaid(recipe, kept)
    report(f"load {recipe.task.data}")
    task = load_task(recipe)
    wanted = by_regime(recipe, task)
    if not attacks:
        wanted = dict(list(wanted.items())[:1])

    def keep(stage: Stage) -> None:
        # What a ledger paid for must outlive a failure further on: it can't be trained again.
        if stage.private is not None:
            save_model(kept, stage, recipe)
            report(f"kept the paid model in {kept.name}")

    attacked = {
        regime: attack_stage(
            recipe, task, regime, names if attacks else (), report=report, keep=keep
        )
        for regime, names in wanted.items()
    }
    first = next(iter(attacked.values()))
    frontier_points = frontier(recipe, first, report=report) if attacks else ()
    outcome = audit_service(
        first.stage,
        first.hardened,
        recipe.audit if attacks else None,
        seed=recipe.seed,
        report=report,
        training=imitated(recipe, first.stage),
    )
    if attacks:
        inside = audit_stage(recipe, first.stage, report=report)
        outcome = replace(outcome, findings=(*outcome.findings, *inside))
    report("publish the bundle")

    scorecards: list[Scorecard] = []

    def fill(folder: Path) -> dict[str, Any]:
        version = publish(folder, first.hardened, task, name=recipe.name)
        scorecards.append(_fill(folder, recipe, task, attacked, frontier_points, outcome, report))
        return {"version": version}

    made = bundles.write(out, _manifest(recipe, task, first), fill, force=force)
    return Result(bundle=made, scorecard=scorecards[0], seconds=time.monotonic() - started)


def _claims(recipe: Recipe) -> bool:
    """Whether the model's training claims anything, so that the plain channel has a claim."""
    folder = recipe.model.checkpoint
    is_stored = folder is not None and bool(checkpoint.load_guarantees(Path(folder)))
    return recipe.train.private is not None or is_stored


def _fill(
    folder: Path,
    recipe: Recipe,
    task: Task,
    attacked: Mapping[Regime, Attacked],
    points: tuple[Point, ...],
    outcome: Outcome,
    report: Report,
) -> Scorecard:
    first = next(iter(attacked.values()))
    stage = first.stage
    report("measure latency, few-shot decoding, and what a client could do alone")
    scorecard = score(recipe, task, attacked, points, outcome, folder)
    if ":" not in stage.network or stage.guarantees:
        save_model(folder / "server" / "deployed", stage, recipe, _training_audit(scorecard))
    scorecard.write(folder / "scorecard.json")
    write_report(folder / "report.html", scorecard, first.gallery)
    (folder / "card.md").write_text(model_card(scorecard))
    (folder / "recipe.toml").write_text(recipe.to_toml())
    return scorecard


def _training_audit(scorecard: Scorecard) -> dict[str, Any]:
    """What the attacks found out about the training data, for the certificate."""
    row = scorecard.pillars[Pillar.TRAINING_DATA]
    return {
        "findings": [
            {
                "attack": found.attack,
                "target": found.target,
                "metric": found.metric,
                "value": found.value,
                "ci": list(found.ci),
                "floor": found.floor,
                "contradicts": found.contradicts,
            }
            for found in row.findings
        ]
    }


def check_unpaid(recipe: Recipe, folder: Path) -> None:
    """Raises `ConfigError` where private training would overwrite a model that was paid for."""
    if recipe.train.private is None or recipe.model.checkpoint is not None:
        return
    if (folder / checkpoint.CERTIFICATE_FILE).exists():
        raise ConfigError(
            f"{folder.name!r} holds a model that a ledger paid for, which can't be trained again. "
            f"Use it with --set model.checkpoint={folder}, move it, or choose another --out."
        )


def save_model(
    folder: Path, stage: Stage, recipe: Recipe, audit: Mapping[str, Any] | None = None
) -> None:
    """Write the deployed model as a checkpoint: weights, and how to rebuild the network.

    Beside them what its training claims, and the certificate, with what an audit found.
    """
    card = checkpoint.Card(
        network=stage.network,
        shape=stage.task.x.shape[1:],
        outputs=stage.answers.outputs,
        options=network_options(recipe, stage.network),
    )
    checkpoint.save(folder, stage.model, card)
    if stage.guarantees:
        output = checkpoint.weights_digest(stage.model)
        if stage.private is None:
            made = checkpoint.load_certificate(Path(str(recipe.model.checkpoint)))
        else:
            made = stage.private.certificate(output, audit)
        checkpoint.save_guarantees(folder, stage.guarantees, made)
    (folder / RECIPE_FILE).write_text(recipe.to_toml())


def _manifest(recipe: Recipe, task: Task, first: Attacked) -> dict[str, Any]:
    return {
        "name": recipe.name,
        "channel": recipe.inference.channel,
        "method": first.hardened.method,
        "cut": first.hardened.cut,
        "synthetic": task.synthetic,
        "adversary": SERVER.name,
        "guarantees": [guarantee.to_json() for guarantee in first.hardened.guarantees],
        "certificate": None
        if first.hardened.certificate is None
        else first.hardened.certificate.to_json(),
        "costs": vars(first.hardened.costs),
        "choices": list(first.hardened.choices),
        "recipe": recipe.to_dict(),
        "recipe_digest": recipe.digest(),
        "versions": versions(),
        "ledger": [],
    }
