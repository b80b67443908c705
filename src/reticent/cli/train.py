"""`reticent train`: train a recipe's model, without protection, and keep it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reticent.cli.frame import Overrides, Session, verb
from reticent.cli.steps import steps
from reticent.errors import UnsupportedError


@verb
def train(
    session: Session,
    recipe: Annotated[Path, typer.Argument(help="A recipe, such as recipes/activity.toml.")],
    changes: Overrides = None,
) -> None:
    """Train the model that a recipe would harden; write a checkpoint.

    Use it later with: reticent run RECIPE --set model.checkpoint=DIR
    """
    from reticent.data.answers import METRICS
    from reticent.pipeline.recipe import load_recipe
    from reticent.pipeline.run import save_model
    from reticent.pipeline.stage import by_regime, load_task, prepare

    overrides = list(changes or [])
    if session.seed is not None:
        overrides.append(f"seed={session.seed}")
    loaded = load_recipe(recipe, overrides)
    if ":" in loaded.model.name:
        raise UnsupportedError(
            "Never: a checkpoint rebuilds reference networks only, since loading one must not run "
            f"code; model.name={loaded.model.name!r} is a factory. Train and harden it in one run, "
            "or from Python with reticent.harden."
        )
    with steps(session, f"train {loaded.name}") as report:
        task = load_task(loaded)
        regime = next(iter(by_regime(loaded, task)))
        stage = prepare(loaded, task, regime, report=report)
        score = float(stage.test_outcomes().mean())
    folder = session.directory(Path("runs") / f"{loaded.name}-model")
    save_model(folder, stage, loaded)
    metric = METRICS[task.kind]
    record = {"checkpoint": folder, "network": stage.network, "metric": metric, "value": score}
    session.result(
        record, f"{task.title}: {metric} {score:.3f} on the test part, {regime} users\n{folder}"
    )
