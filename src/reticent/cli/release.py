"""`reticent release`: noisy answers about a table, or a report of each record randomised alone."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reticent.cli.frame import Session, jsonable, verb
from reticent.errors import ConfigError
from reticent.privacy.ledger.place import LEDGER_VARIABLE, ledger_path

if TYPE_CHECKING:
    from reticent.guarantee import Guarantee
    from reticent.privacy.ledger import Ledger
    from reticent.release.queries import Released
    from reticent.release.reports import Reports


class Local(StrEnum):
    """Mechanisms that randomise each record alone."""

    RESPONSE = "response"
    OUE = "oue"
    SUE = "sue"
    OLH = "olh"
    HADAMARD = "hadamard"
    SUBSET = "subset"
    RAPPOR = "rappor"
    DUCHI = "duchi"
    PIECEWISE = "piecewise"
    HYBRID = "hybrid"


class Missing(StrEnum):
    """What to do with records that have no value."""

    REFUSE = "refuse"
    DROP = "drop"


# Which options go with which kind of release; any other must not pass in silence.
_QUERY = {"query", "rho", "missing"}
_LOCAL = {"local", "column", "categories", "lower", "upper", "catch_all", "experiment"}


@verb
def release(
    session: Session,
    table: Annotated[Path, typer.Argument(help="A .csv or .parquet file with a budget.")],
    query: Annotated[
        str | None,
        typer.Option(help="For example: mean(age, 0, 100) where sex = 'Female'"),
    ] = None,
    local: Annotated[
        Local | None, typer.Option(help="Randomise each record of --column instead.")
    ] = None,
    epsilon: Annotated[
        float | None, typer.Option(help="Price; with --local, of each record's one report.")
    ] = None,
    rho: Annotated[
        float | None, typer.Option(help="query: price in zero-concentrated DP instead.")
    ] = None,
    column: Annotated[str | None, typer.Option(help="local: the column.")] = None,
    categories: Annotated[
        str | None, typer.Option(help="local: all possible values, with commas between.")
    ] = None,
    lower: Annotated[float | None, typer.Option(help="local: public bound of a number.")] = None,
    upper: Annotated[float | None, typer.Option(help="local: public bound of a number.")] = None,
    catch_all: Annotated[
        str | None, typer.Option(help="local: the category of missing and other values.")
    ] = None,
    missing: Annotated[
        Missing | None, typer.Option(help="query: refuse (default) or drop missing values.")
    ] = None,
    ledger: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help=f"The ledger; default {LEDGER_VARIABLE}, else ~/.reticent/budget.db.",
        ),
    ] = None,
    key: Annotated[Path | None, typer.Option(help="Its key file; default PATH.key.")] = None,
    dataset: Annotated[
        str | None, typer.Option(help="What the budget calls the table; default: its file name.")
    ] = None,
    user: Annotated[str | None, typer.Option(help="The column of user ids.")] = None,
    contributions: Annotated[int, typer.Option(help="Most records that count of one user.")] = 1,
    analyst: Annotated[str, typer.Option(help="For whom, where analysts have quotas.")] = "",
    request: Annotated[
        str | None, typer.Option(help="A name for the request: a retry is not charged twice.")
    ] = None,
    experiment: Annotated[
        bool, typer.Option("--experiment", help="local: with --seed; no guarantee, no ledger.")
    ] = False,
) -> None:
    """Release a noisy answer about a table, or each record randomised, charged to its budget."""
    given: dict[str, Any] = {
        "query": query,
        "local": local,
        "rho": rho,
        "column": column,
        "categories": categories,
        "lower": lower,
        "upper": upper,
        "catch_all": catch_all,
        "missing": missing,
        "experiment": experiment or None,
    }
    _check(session, given)
    shared: dict[str, Any] = {
        "dataset": dataset,
        "user": user,
        "contributions": contributions,
        "key": request,
        "analyst": analyst,
    }
    folder = None if session.out is None else session.directory(session.out)
    opened = None if experiment else _ledger(ledger, key)
    if local is None:
        _query(session, table, given | {"epsilon": epsilon}, shared, opened, folder)
    else:
        _local(session, table, given | {"epsilon": epsilon}, shared, opened, folder)


def _check(session: Session, given: dict[str, Any]) -> None:
    if (given["query"] is None) == (given["local"] is None):
        raise ConfigError(
            "Expected one of --query and --local, got "
            f"query={given['query']!r}, local={given['local']!r}. Write for example: "
            "reticent release people.csv --query 'mean(age, 0, 100)' --epsilon 0.5"
        )
    known, what = (_QUERY, "query") if given["local"] is None else (_LOCAL, "local")
    stray = [name for name, value in given.items() if value is not None and name not in known]
    if stray:
        raise ConfigError(
            f"Expected no --{stray[0].replace('_', '-')} with --{what}, got {given[stray[0]]!r}."
        )
    if session.seed is not None and not given["experiment"]:
        raise ConfigError(
            f"Expected no seed for a release, got seed={session.seed}: whoever knows it could undo "
            "the noise. Leave it out, or add --experiment to --local for data that need no "
            "protection."
        )


def _ledger(path: Path | None, key: Path | None) -> Ledger:
    from reticent.privacy.ledger import Ledger

    return Ledger.open(ledger_path(path), key=key)


def _query(
    session: Session,
    table: Path,
    given: dict[str, Any],
    shared: dict[str, Any],
    ledger: Ledger | None,
    folder: Path | None,
) -> None:
    from reticent.release.queries import release_query

    if ledger is None:
        raise ConfigError("Expected --experiment with --local alone, got it with --query.")
    session.note(f"asking {table.name}: {given['query']} ...")
    made = release_query(
        table,
        given["query"],
        ledger=ledger,
        epsilon=given["epsilon"],
        rho=given["rho"],
        missing="drop" if given["missing"] is Missing.DROP else "refuse",
        **shared,
    )
    record = {
        "query": given["query"],
        "answer": made.answer,
        "guarantee": made.guarantee,
        "ledger": made.spent,
        "left": _left(ledger, made.spent.dataset),
    }
    _write(folder, record)
    session.result(record, lambda: _query_text(given["query"], made, record["left"]))


def _local(
    session: Session,
    table: Path,
    given: dict[str, Any],
    shared: dict[str, Any],
    ledger: Ledger | None,
    folder: Path | None,
) -> None:
    import numpy as np

    from reticent.release.reports import Randomiser, category_list, release_reports

    for name in ("epsilon", "column"):
        if given[name] is None:
            raise ConfigError(
                f"Expected --{name} with --local, got none. Write for example: reticent release "
                "people.csv --local oue --column job --categories 'a,b,c' --epsilon 1"
            )
    bounds = (given["lower"], given["upper"])
    if (bounds[0] is None) != (bounds[1] is None):
        raise ConfigError(f"Expected --lower and --upper together, got {bounds}.")
    randomiser = Randomiser(
        mechanism=given["local"].value,
        epsilon=given["epsilon"],
        categories=category_list(given["categories"] or ""),
        bounds=None if bounds[0] is None else bounds,
        catch_all=given["catch_all"],
    )
    session.note(f"randomising {given['column']} of {table.name} ...")
    made = release_reports(
        table,
        given["column"],
        randomiser,
        ledger=ledger,
        experiment=ledger is None,
        seed=session.seed,
        **shared,
    )
    if made.void:
        session.warn(f"guarantee: {made.void}")
    record: dict[str, Any] = {
        "mechanism": made.mechanism,
        "column": given["column"],
        "epsilon_per_report": made.epsilon_per_report,
        "reports": len(made.reports),
        "estimate": made.estimate,
        "categories": made.categories,
        "guarantee": made.guarantee or made.void,
        "ledger": made.spent,
        "left": None if ledger is None or made.spent is None else _left(ledger, made.spent.dataset),
    }
    if folder is not None:
        np.savez(folder / "reports.npz", reports=made.reports)
    _write(folder, record)
    session.result(record, lambda: _local_text(made, record["left"]))


def _left(ledger: Ledger, dataset: str) -> list[dict[str, Any]]:
    return [
        {
            "block": item.block,
            "unit": item.unit,
            "spent_epsilon": item.epsilon,
            "of_epsilon": item.cap.epsilon,
            "delta": item.cap.delta,
        }
        for item in ledger.balances(dataset)
    ]


def _write(folder: Path | None, record: dict[str, Any]) -> None:
    if folder is not None:
        text = json.dumps(jsonable(record), indent=2, allow_nan=False)
        (folder / "release.json").write_text(text + "\n", encoding="utf-8")


def _query_text(query: str, made: Released, left: list[dict[str, Any]]) -> str:
    error = made.answer.standard_error
    value = made.answer.value
    lines = (
        [f"  {name}: {count}" for name, count in value.items()]
        if isinstance(value, dict)
        else [f"  {', '.join(value)}" if isinstance(value, list) else f"  {value:.10g}"]
    )
    if error is not None:
        lines.append(f"  standard error of the noise: {error:.4g} ({made.answer.noise})")
    return "\n".join([query, *lines, _promise(made.guarantee), *_budget(left)])


def _local_text(made: Reports, left: list[dict[str, Any]] | None) -> str:
    from reticent.release.local.oracle import Estimate

    found = made.estimate
    if isinstance(found, Estimate):
        triples = zip(made.categories, found.counts, found.standard_errors, strict=True)
        lines = [f"  {name}: {count:.6g} +- {error:.3g}" for name, count, error in triples]
    else:
        lines = [f"  mean {found.mean:.6g} +- {found.standard_error:.3g}"]
    promise = f"guarantee: {made.void}" if made.guarantee is None else _promise(made.guarantee)
    heading = f"{len(made.reports)} reports by {made.mechanism}; estimates +- standard errors:"
    return "\n".join([heading, *lines, promise, *_budget(left or [])])


def _promise(guarantee: Guarantee) -> str:
    strength: Any = guarantee.strength
    delta = f", delta={strength.delta:g}" if strength.delta else ""
    return (
        f"guarantee: {guarantee.strength.kind}, epsilon={strength.epsilon:.4g}{delta}, "
        f"{strength.neighboring_relation} {strength.unit}; {guarantee.mechanism}"
    )


def _budget(left: list[dict[str, Any]]) -> list[str]:
    return [
        f"budget: epsilon {item['spent_epsilon']:.4g} of {item['of_epsilon']:g} spent, "
        f"block {item['block']}"
        for item in left
    ]
