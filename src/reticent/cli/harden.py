"""`reticent harden`: make a bundle without attacking it; the scorecard says so."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reticent.cli.frame import Overrides, Session, verb
from reticent.cli.run import show
from reticent.cli.steps import steps


@verb
def harden(
    session: Session,
    recipe: Annotated[Path, typer.Argument(help="A recipe, such as recipes/activity.toml.")],
    model: Annotated[
        Path | None, typer.Option("--model", help="A checkpoint of `reticent train`.")
    ] = None,
    changes: Overrides = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing bundle.")] = False,
) -> None:
    """Harden and publish, without attacks: claims stay "not tested" until `reticent audit`."""
    from reticent.pipeline.recipe import load_recipe
    from reticent.pipeline.run import run

    overrides = list(changes or [])
    if session.seed is not None:
        overrides.append(f"seed={session.seed}")
    if model is not None:
        overrides.append(f"model.checkpoint={str(model)!r}")
    loaded = load_recipe(recipe, overrides)
    out = session.out or Path("runs") / loaded.name
    with steps(session, f"harden {loaded.name}") as report:
        result = run(loaded, out, report=report, force=force, attacks=False)
    # Gates on leakage can't pass before the audit; that is no failure of hardening.
    show(session, result, judge=False)
