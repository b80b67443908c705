"""`reticent train`: train a recipe's model, without protection, and keep it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reticent.cli.frame import Overrides, Session, verb
from reticent.cli.steps import steps
from reticent.errors import UnsupportedError

if TYPE_CHECKING:
    from reticent.pipeline.private_training import Private


@verb
def train(
    session: Session,
    recipe: Annotated[Path, typer.Argument(help="A recipe, such as recipes/activity.toml.")],
    ledger: Annotated[
        str | None,
        typer.Option("--ledger", help='Who pays for private training; "none": nobody.'),
    ] = None,
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="The data set's name in the ledger.")
    ] = None,
    key: Annotated[
        str | None, typer.Option("--key", help="What the run is called in the ledger.")
    ] = None,
    changes: Overrides = None,
) -> None:
    """Train the model that a recipe would harden or serve; write a checkpoint.

    With [train.private] it is trained with differential privacy: the ledger is charged before a
    record is read, and a signed certificate lies beside the weights. Use the checkpoint later
    with: reticent run RECIPE --set model.checkpoint=DIR
    """
    from reticent.data.answers import METRICS
    from reticent.pipeline.recipe import load_recipe
    from reticent.pipeline.run import check_unpaid, save_model
    from reticent.pipeline.stage import by_regime, prepare
    from reticent.pipeline.tasks import load_task

    overrides = list(changes or [])
    if session.seed is not None:
        overrides.append(f"seed={session.seed}")
    for name, value in (("ledger", ledger), ("dataset", dataset), ("key", key)):
        if value is not None:
            overrides.append(f"train.private.{name}={json.dumps(value)}")
    loaded = load_recipe(recipe, overrides)
    if ":" in loaded.model.name:
        raise UnsupportedError(
            "Never: a checkpoint rebuilds reference networks only, since loading one must not run "
            f"code; model.name={loaded.model.name!r} is a factory. Train and harden it in one run, "
            "or from Python with reticent.harden."
        )
    folder = session.out or Path("runs") / f"{loaded.name}-model"
    check_unpaid(loaded, folder)
    with steps(session, f"train {loaded.name}") as report:
        task = load_task(loaded)
        regime = next(iter(by_regime(loaded, task)))
        stage = prepare(loaded, task, regime, report=report)
        score = float(stage.test_outcomes().mean())
    session.directory(folder)
    save_model(folder, stage, loaded)
    metric = METRICS[task.kind]
    claims = [guarantee.to_json() for guarantee in stage.guarantees]
    record = {
        "checkpoint": folder,
        "network": stage.network,
        "metric": metric,
        "value": score,
        "guarantees": claims,
        "charge": None if stage.private is None else stage.private.entry,
    }
    session.result(
        record,
        f"{task.title}: {metric} {score:.3f} on the test part, {regime} users\n"
        + "".join(f"{_claim(each, stage.private)}\n" for each in claims)
        + str(folder),
    )


def _claim(record: dict[str, Any], private: Private | None) -> str:
    strength = record["strength"]
    paid = "charged to the ledger" if private and private.entry else "NOT charged to any ledger"
    return (
        f"epsilon {strength['epsilon']:.3g} at delta {strength['delta']:g} per "
        f"{strength['unit']}, {paid}"
    )
