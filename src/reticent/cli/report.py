"""`reticent report`: render a bundle's scorecard again, or print it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reticent.cli.frame import Session, verb
from reticent.cli.run import exit_code


@verb
def report(
    session: Session,
    bundle: Annotated[Path, typer.Argument(help="A bundle, or a scorecard.json.")],
) -> None:
    """Print a scorecard; write its HTML report and model card with --out."""
    from reticent.audit.scorecard import Scorecard
    from reticent.inference.bundle import load
    from reticent.report import model_card, render_text, write_report

    path = bundle if bundle.suffix == ".json" else load(bundle).folder / "scorecard.json"
    card = Scorecard.read(path)
    if session.out is not None:
        folder = session.directory(session.out)
        write_report(folder / "report.html", card)
        (folder / "card.md").write_text(model_card(card))
    session.result(card.to_json(), lambda: render_text(card), exit_code=exit_code(card))
