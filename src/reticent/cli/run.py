"""`reticent run`: train, harden, attack, certify and publish what a recipe describes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reticent.cli.frame import Overrides, Session, verb
from reticent.cli.steps import steps

if TYPE_CHECKING:
    from reticent.audit.scorecard import Scorecard
    from reticent.pipeline.run import Result

VERDICT_EXIT = 3


@verb
def run(
    session: Session,
    recipe: Annotated[Path, typer.Argument(help="A recipe, such as recipes/activity.toml.")],
    changes: Overrides = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing bundle.")] = False,
) -> None:
    """Train, harden, attack, certify and publish a recipe."""
    from reticent.pipeline.recipe import load_recipe
    from reticent.pipeline.run import run as run_recipe

    overrides = list(changes or [])
    if session.seed is not None:
        overrides.append(f"seed={session.seed}")
    loaded = load_recipe(recipe, overrides)
    out = session.out or Path("runs") / loaded.name
    with steps(session, f"run {loaded.name}") as report:
        result = run_recipe(loaded, out, report=report, force=force)
    show(session, result)


def show(session: Session, result: Result, *, judge: bool = True, **more: Any) -> None:
    """The result of a run: the scorecard, and where everything lies.

    With `judge` the verdict is the exit code.
    """
    from reticent.report import render_text

    card, folder = result.scorecard, result.bundle.folder
    record = {
        "bundle": folder,
        "report": folder / "report.html",
        "seconds": round(result.seconds, 1),
        "scorecard": card.to_json(),
        **more,
    }
    session.note(f"bundle  {folder}\nreport  {folder / 'report.html'}")
    session.result(record, lambda: render_text(card), exit_code=exit_code(card) if judge else 0)


def exit_code(card: Scorecard) -> int:
    """0 when every claim and gate holds, else 3."""
    from reticent.audit.scorecard import Verdict

    return 0 if card.verdict is Verdict.HOLDS else VERDICT_EXIT
