"""The command line: one file per verb, one frame for all."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from reticent.cli import (
    audit,
    budget,
    compare,
    demo,
    doctor,
    frame,
    harden,
    plan,
    query,
    release,
    report,
    run,
    serve,
    train,
)

# In the order of the help. A verb imports what is heavy inside its function, so that the help
# and the doctor answer at once.
VERBS = (
    demo.demo,
    plan.plan,
    run.run,
    train.train,
    harden.harden,
    audit.audit,
    compare.compare,
    serve.serve,
    query.query,
    release.release,
    budget.budget,
    report.report,
    doctor.doctor,
)

app = typer.Typer(
    name="reticent",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for _verb in VERBS:
    app.command()(_verb)


def _show_version(is_asked: bool) -> None:
    if is_asked:
        print(f"reticent {importlib.metadata.version('reticent')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Machine learning as a service in which no party learns more than it needs.

    Exit codes: 0 done; 1 a failure of ours; 2 bad input; 3 a claim contradicted or a gate failed;
    4 privacy budget exhausted; 5 evidence or authentication rejected.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit; `arguments` default to those of the process."""
    sys.exit(frame.call(app, list(sys.argv[1:] if arguments is None else arguments)))
