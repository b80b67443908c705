"""`reticent compare`: every hardening method on one task, on the same split, in one table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reticent.cli.frame import Overrides, Session, verb
from reticent.cli.steps import steps

if TYPE_CHECKING:
    from rich.table import Table

    from reticent.pipeline.compare import Comparison


@verb
def compare(
    session: Session,
    recipe: Annotated[Path, typer.Argument(help="A recipe; its task and model are used.")],
    methods: Annotated[
        list[str] | None,
        typer.Option("--method", help='"method" or "method@cut", repeatable. Default: all.'),
    ] = None,
    untuned: Annotated[
        bool, typer.Option("--untuned", help="Baselines at their default strengths; faster.")
    ] = False,
    changes: Overrides = None,
) -> None:
    """Harden one model in every way, attack every result, and print the frontier."""
    from reticent.pipeline.compare import compare as compare_methods
    from reticent.pipeline.recipe import load_recipe

    overrides = list(changes or [])
    if session.seed is not None:
        overrides.append(f"seed={session.seed}")
    loaded = load_recipe(recipe, overrides)
    with steps(session, f"compare on {loaded.task.data}") as report:
        made = compare_methods(loaded, methods or None, report=report, baseline_tuned=not untuned)
    record = made.to_json()
    if session.out is not None:
        import json

        path = session.directory(session.out) / "comparison.json"
        path.write_text(json.dumps(record, indent=2) + "\n")
    session.result(record, lambda: _table(made))


def _table(made: Comparison) -> Table:
    from rich.table import Table

    from reticent.audit.frontier import pareto

    best = pareto(made.points, ("utility", "excess", "client_flops_share", "latency"))
    table = Table(title=f"{made.title}: {made.metric} undefended {made.baseline:.3f}")
    headings = ("method", "cut", made.metric, "worst excess", "on", "client", "1-shot", "query", "")
    for heading in headings:
        table.add_column(heading)
    for point in made.points:
        low, high = point.excess_ci or (point.excess, point.excess)
        table.add_row(
            point.method,
            str(point.parameters.get("cut", "")),
            f"{point.utility:.3f}",
            f"{point.excess:+.3f} [{low:+.3f}, {high:+.3f}]",
            f"{point.target}, m={point.requests}",
            f"{point.client_flops_share:.0%}",
            f"{point.few_shot.get(1, float('nan')):.3f}",
            "" if point.latency_ms is None else f"{point.latency_ms:.2f} ms",
            ("CONTRADICTED " if point.contradicted else "")
            + ("certified " if point.guaranteed else "")
            + ("frontier" if point in best else ""),
        )
    return table
