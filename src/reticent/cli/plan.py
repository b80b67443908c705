"""`reticent plan`: three questions, answered by options or at the terminal, then a recipe."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from reticent.cli.frame import Session, verb
from reticent.errors import ConfigError
from reticent.guarantee import Pillar

if TYPE_CHECKING:
    from reticent.pipeline.planner import Plan

Choice = TypeVar("Choice", bound=StrEnum)


@verb
def plan(
    session: Session,
    protect: Annotated[
        list[str] | None,
        typer.Option(help="What is sensitive: training-data, input, output, model; repeatable."),
    ] = None,
    keep_from: Annotated[
        list[str] | None,
        typer.Option("--from", help="Who must not learn it: server, client, outsider; repeatable."),
    ] = None,
    retrain: Annotated[
        bool | None,
        typer.Option("--retrain/--no-retrain", help="Whether the deployed model may change."),
    ] = None,
    client_share: Annotated[
        float | None,
        typer.Option(help="Largest share of the model's computation on the client, up to 1."),
    ] = None,
    data: Annotated[str, typer.Option(help="An embedded set's name, or a path.")] = "gait",
    public: Annotated[str | None, typer.Option(help="The label that the service is for.")] = None,
    private: Annotated[
        list[str] | None, typer.Option(help="An attribute it must not learn; repeatable.")
    ] = None,
) -> None:
    """Recommend a channel and method; write the recipe."""
    from reticent.pipeline.planner import Learner, Needs
    from reticent.pipeline.planner import plan as make_plan

    if protect is None:
        protect, keep_from, retrain, client_share = _ask(session)
    needs = Needs(
        protect=_chosen(protect, Pillar, "protect"),
        learners=_chosen(keep_from or ["server"], Learner, "from"),
        may_retrain=True if retrain is None else retrain,
        client_share=1.0 if client_share is None else client_share,
    )
    made = make_plan(needs, data=data, public=public, private=tuple(private or ()))
    record = made.to_json() | {"toml": made.to_toml(), "path": None}
    if session.out is not None:
        path = session.directory(session.out) / "recipe.toml"
        path.write_text(made.to_toml(), encoding="utf-8")
        record["path"] = str(path)
    session.result(record, lambda: _text(made, session.out))


def _ask(session: Session) -> tuple[list[str], list[str], bool, float]:
    if session.as_json or not sys.stdin.isatty():
        raise ConfigError(
            "Expected --protect when there is no terminal to ask at, got none. "
            "Run for example: reticent plan --protect input --from server --no-retrain"
        )
    protect = _prompt("1. What is sensitive? (training-data, input, output, model)", "input")
    learners = _prompt("2. Who must not learn it? (server, client, outsider)", "server")
    retrain = typer.confirm("3. May the deployed model be re-trained?", default=True, err=True)
    share = typer.prompt(
        "   How much of the model may the client compute? (0 to 1)", 1.0, type=float, err=True
    )
    return protect, learners, retrain, float(share)


def _prompt(question: str, default: str) -> list[str]:
    answer = str(typer.prompt(question, default, err=True))
    return [part for part in answer.replace(",", " ").split() if part]


def _chosen(given: Sequence[str], choices: type[Choice], option: str) -> tuple[Choice, ...]:
    """The members named, each once; "training-data" and "training data" are the same."""
    valid = {choice.value.replace(" ", "-"): choice for choice in choices}
    chosen = []
    for name in given:
        key = name.strip().lower().replace(" ", "-").replace("_", "-")
        if key not in valid:
            near = difflib.get_close_matches(key, valid, 1)
            remedy = f"Did you mean {near[0]!r}?" if near else "Choose one of these."
            raise ConfigError(
                f"Expected one of {', '.join(valid)}, got {option}={name!r}. {remedy}"
            )
        chosen.append(valid[key])
    return tuple(dict.fromkeys(chosen))


def _text(made: Plan, out: Path | None) -> str:
    lines = [f"channel  {made.channel}", f"method   {made.method or 'none'}", ""]
    lines += made.reasons
    lines += [
        f"{item.pillar} from {item.learner}: {item.status.upper()}. {item.how}"
        for item in made.answers
    ]
    if out is None:
        return "\n".join([*lines, "", made.to_toml()])
    path = out / "recipe.toml"
    return "\n".join([*lines, "", f"wrote {path}; run it with: reticent run {path}"])
