"""A run: data in, a trained, hardened, attacked, certified and published deployment out."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reticent.audit.frontier import Point
from reticent.audit.scorecard import Scorecard
from reticent.audit.suite import Outcome
from reticent.data.partition import Regime
from reticent.data.task import Task
from reticent.errors import ConfigError
from reticent.guarantee import SERVER
from reticent.inference import bundle as bundles
from reticent.inference.bundle import Bundle
from reticent.inference.split.publish import publish
from reticent.models import checkpoint
from reticent.pipeline.attack import Attacked, attack_stage, frontier
from reticent.pipeline.model_audit import audit_service
from reticent.pipeline.recipe import Recipe
from reticent.pipeline.score import score, versions
from reticent.pipeline.stage import Report, Stage, by_regime, load_task
from reticent.pipeline.subject import RECIPE_FILE
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
    if recipe.inference.channel == "plain":
        raise ConfigError(
            "run hardens and attacks what protects; the plain channel is the baseline and has "
            'nothing to protect. Set [inference] channel = "split", "sealed" or "ckks".'
        )
    report(f"load {recipe.task.data}")
    task = load_task(recipe)
    wanted = by_regime(recipe, task)
    if not attacks:
        wanted = dict(list(wanted.items())[:1])
    attacked = {
        regime: attack_stage(recipe, task, regime, names if attacks else (), report=report)
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
    )
    report("publish the bundle")

    scorecards: list[Scorecard] = []

    def fill(folder: Path) -> dict[str, Any]:
        version = publish(folder, first.hardened, task, name=recipe.name)
        scorecards.append(_fill(folder, recipe, task, attacked, frontier_points, outcome, report))
        return {"version": version}

    made = bundles.write(out, _manifest(recipe, task, first), fill, force=force)
    return Result(bundle=made, scorecard=scorecards[0], seconds=time.monotonic() - started)


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
    if ":" not in stage.network:
        save_model(folder / "server" / "deployed", stage, recipe)
    report("measure latency, few-shot decoding, and what a client could do alone")
    scorecard = score(recipe, task, attacked, points, outcome, folder)
    scorecard.write(folder / "scorecard.json")
    write_report(folder / "report.html", scorecard, first.gallery)
    (folder / "card.md").write_text(model_card(scorecard))
    (folder / "recipe.toml").write_text(recipe.to_toml())
    return scorecard


def save_model(folder: Path, stage: Stage, recipe: Recipe) -> None:
    """Write the deployed model as a checkpoint: weights, and how to rebuild the network."""
    card = checkpoint.Card(
        network=stage.network,
        shape=stage.task.x.shape[1:],
        outputs=stage.answers.outputs,
        options=dict(recipe.model.options),
    )
    checkpoint.save(folder, stage.model, card)
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
