"""`reticent audit`: attack a published bundle, file for file as it is served."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reticent.cli.frame import Overrides, Session, verb
from reticent.cli.run import exit_code
from reticent.cli.steps import steps


@verb
def audit(
    session: Session,
    bundle: Annotated[Path, typer.Argument(help="A bundle that `reticent run` wrote.")],
    changes: Overrides = None,
) -> None:
    """Attack a bundle again; exit 3 when a claim is contradicted or a gate fails.

    Write the new scorecard and report with --out; the bundle itself stays as it is.
    """
    from reticent.inference.bundle import load
    from reticent.pipeline.published import audit_bundle
    from reticent.report import render_text, write_report

    loaded = load(bundle)
    with steps(session, f"audit {loaded.name}") as report:
        card, attacked = audit_bundle(loaded, list(changes or []), seed=session.seed, report=report)
    if session.out is not None:
        folder = session.directory(session.out)
        card.write(folder / "scorecard.json")
        write_report(folder / "report.html", card, attacked.gallery)
        session.note(f"report  {folder / 'report.html'}")
    session.result(card.to_json(), lambda: render_text(card), exit_code=exit_code(card))
