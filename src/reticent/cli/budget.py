"""`reticent budget`: grant privacy budgets, see what is spent, and verify the ledger."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from reticent.cli.frame import Session, verb
from reticent.errors import ConfigError
from reticent.privacy.ledger.place import LEDGER_VARIABLE, ledger_path

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.table import Table

    from reticent.privacy.ledger import Balance, Store


class Action(StrEnum):
    """What to do with the ledger."""

    SHOW = "show"
    GRANT = "grant"
    HISTORY = "history"
    VERIFY = "verify"


class Unit(StrEnum):
    """Whom the budget protects."""

    RECORD = "record"
    USER = "user"


class Relation(StrEnum):
    """How neighbouring data sets differ in one unit."""

    ADD_OR_REMOVE = "add-or-remove"
    ZERO_OUT = "zero-out"


# Which options go with which action; any other is a mistake that must not pass in silence.
_OPTIONS = {
    Action.SHOW: {"data"},
    Action.GRANT: {
        *("data", "epsilon", "delta", "direct_delta", "name", "unit", "user", "key", "relation")
    },
    Action.HISTORY: {"data"},
    Action.VERIFY: {"receipt", "public", "key", "certificate"},
}


@verb
def budget(
    session: Session,
    action: Annotated[Action, typer.Argument(help="show, grant, history or verify.")],
    data: Annotated[
        str | None,
        typer.Argument(
            help="grant: a .csv, .npz or .parquet file, or a recipe. show, history: a data set."
        ),
    ] = None,
    ledger: Annotated[
        Path | None,
        typer.Option(
            "--ledger",
            metavar="PATH",
            help=f"The ledger; default {LEDGER_VARIABLE}, else ~/.reticent/budget.db.",
        ),
    ] = None,
    key: Annotated[Path | None, typer.Option(help="Its key file; default PATH.key.")] = None,
    epsilon: Annotated[float | None, typer.Option(help="grant: the cap's epsilon.")] = None,
    delta: Annotated[float | None, typer.Option(help="grant: the cap's delta.")] = None,
    direct_delta: Annotated[
        float | None,
        typer.Option(help="grant: the part of delta for mechanisms with a delta; default half."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="grant: what to call the data set.")] = None,
    unit: Annotated[Unit | None, typer.Option(help="grant: whom the cap protects.")] = None,
    user: Annotated[str | None, typer.Option(help="grant: the column of user ids.")] = None,
    relation: Annotated[
        Relation | None,
        typer.Option(
            help="grant: neighbours add or remove one (default), or, for training in order only, "
            "replace one by nothing in its place."
        ),
    ] = None,
    receipt: Annotated[
        list[str] | None,
        typer.Option(help="verify: POSITION:HASH of an entry it must have; repeatable."),
    ] = None,
    certificate: Annotated[
        Path | None, typer.Option(help="verify: a certificate.json, against this ledger.")
    ] = None,
    public: Annotated[
        str | None, typer.Option(help="verify: the public key (hex), instead of the key file.")
    ] = None,
) -> None:
    """Grant privacy budgets, see what is spent, and verify the ledger."""
    given: dict[str, Any] = {
        "data": data,
        "epsilon": epsilon,
        "delta": delta,
        "direct_delta": direct_delta,
        "name": name,
        "unit": unit,
        "user": user,
        "relation": relation,
        "key": key,
        "receipt": receipt or None,
        "public": public,
        "certificate": certificate,
    }
    stray = [item for item, v in given.items() if v is not None and item not in _OPTIONS[action]]
    if stray:
        raise ConfigError(f"Expected no {stray[0]} for `budget {action}`, got {given[stray[0]]!r}.")
    run = {
        Action.SHOW: _show,
        Action.GRANT: _grant,
        Action.HISTORY: _history,
        Action.VERIFY: _verify,
    }
    run[action](session, ledger_path(ledger), given)


def _grant(session: Session, path: Path, given: dict[str, Any]) -> None:
    from reticent.privacy.ledger import Cap, Ledger
    from reticent.privacy.ledger.files import file_digests

    for option in ("data", "epsilon", "delta"):
        if given[option] is None:
            raise ConfigError(
                f"Expected {option} for `budget grant`, got none. Run for example: "
                "reticent budget grant people.csv --epsilon 3 --delta 1e-6"
            )
    unit: Unit = given["unit"] or (Unit.USER if given["user"] else Unit.RECORD)
    if (unit is Unit.USER) != (given["user"] is not None):
        raise ConfigError(
            f"Expected --user COLUMN with --unit user and only then, got unit={unit.value!r} and "
            f"user={given['user']!r}."
        )
    cap = Cap(epsilon=given["epsilon"], delta=given["delta"], direct_delta=given["direct_delta"])
    source = Path(given["data"])
    kind: Literal["record", "user"] = "user" if unit is Unit.USER else "record"
    name: str = given["name"] or source.stem
    if source.suffix == ".toml":
        if given["user"] is not None or given["unit"] is not None:
            raise ConfigError("Expected no --user or --unit with a recipe: its [task] states both.")
        from reticent.pipeline.private_training import recipe_units

        name, digests, kind = recipe_units(source)
        name = given["name"] or name
    else:
        digests = file_digests(source, user=given["user"])
    if given["relation"] is Relation.ZERO_OUT and kind == "user":
        raise ConfigError("Expected --relation zero-out per record, got unit='user'.")
    ledger = Ledger.create(path, key=given["key"])
    made = ledger.grant(name, digests, cap=cap, unit=kind, **_relation(given["relation"]))
    balances = ledger.balances(made.id)
    record = {
        "ledger": path,
        "public_key": ledger.key.public,
        "dataset": made,
        "blocks": [_record(item) for item in balances],
    }
    session.result(record, lambda: _table(f"{made.name}: {made.size} {made.unit}s", balances))


def _relation(given: Relation | None) -> dict[str, str]:
    """The relation as the ledger writes it; its own default where nothing is said."""
    if given is not Relation.ZERO_OUT:
        return {}
    from reticent.training.dp_sgd.correlated import RELATION

    return {"relation": RELATION}


def _show(session: Session, path: Path, given: dict[str, Any]) -> None:
    ledger = _reader(path)
    datasets = ledger.datasets()
    if given["data"] is not None:
        chosen = ledger.dataset(given["data"])
        datasets = tuple(item for item in datasets if item.id == chosen.id)
    used = {block for item in datasets for block in item.blocks}
    balances = [item for item in ledger.balances() if item.block in used]
    record = {
        "ledger": path,
        "datasets": datasets,
        "blocks": [_record(item) for item in balances],
    }
    title = ", ".join(item.name for item in datasets) or "nothing granted"
    session.result(record, lambda: _table(title, balances))


def _history(session: Session, path: Path, given: dict[str, Any]) -> None:
    ledger = _reader(path)
    entries = list(ledger.history())
    if given["data"] is not None:
        chosen = ledger.dataset(given["data"]).id
        charges = {item["charge"] for item in entries if _is_on(item, chosen)}
        entries = [
            item for item in entries if item.get("charge") in charges or _is_on(item, chosen)
        ]
    session.result({"ledger": path, "entries": entries}, lambda: "\n".join(map(_line, entries)))


def _verify(session: Session, path: Path, given: dict[str, Any]) -> None:
    from reticent.privacy.certificate import check_certificate, describe_certificate
    from reticent.privacy.ledger import Receipt, SigningKey, SQLiteStore, verify
    from reticent.privacy.ledger.ledger import key_file

    store: Store = SQLiteStore(path)
    public = given["public"] or SigningKey.load(given["key"] or key_file(path)).public
    receipts = [Receipt.parse(text) for text in given["receipt"] or ()]
    found = verify(store, public, receipts=receipts)
    record = {
        "ledger": path,
        "public_key": public,
        "entries": found.entries,
        "charges": found.charges,
        "receipt": str(found.receipt),
    }
    said = ""
    if given["certificate"] is not None:
        from reticent.models.checkpoint import load_guarantees

        where = Path(given["certificate"])
        checked = check_certificate(where, public=public, ledger=store)
        # What lies beside it must be what it speaks of.
        load_guarantees(where.parent)
        record["certificate"] = checked
        said = f"{describe_certificate(checked)}\n"
    session.result(
        record,
        f"{said}{found.entries} entries and {found.charges} charges are as their key signed them.\n"
        f"receipt, to keep elsewhere: {found.receipt}",
    )


def _reader(path: Path) -> Any:
    """The ledger for reading alone, which needs no key."""
    from reticent.privacy.ledger import SQLiteStore
    from reticent.privacy.ledger.reading import Reader

    return Reader(SQLiteStore(path))


def _record(balance: Balance) -> dict[str, Any]:
    return {
        "block": balance.block,
        "unit": balance.unit,
        "neighboring_relation": balance.relation,
        "cap": balance.cap.to_json(),
        "spent_epsilon": balance.epsilon,
        "spent": balance.spent.to_json(),
    }


def _table(title: str, balances: Iterable[Balance]) -> Table:
    from rich.table import Table

    table = Table(title=title)
    for heading in ("block", "unit", "delta", "epsilon spent", "of"):
        table.add_column(heading)
    for item in balances:
        table.add_row(
            item.block,
            item.unit,
            f"{item.cap.delta:g}",
            f"{item.epsilon:.4g}",
            f"{item.cap.epsilon:g}",
        )
    return table


def _is_on(entry: dict[str, Any], dataset: str) -> bool:
    return bool(entry["kind"] in ("grant", "reserve") and entry["dataset"] == dataset)


def _line(entry: dict[str, Any]) -> str:
    from datetime import UTC, datetime

    when = datetime.fromtimestamp(entry["at"], UTC).strftime("%Y-%m-%d %H:%M:%S")
    told = (entry.get(name) for name in ("charge", "name", "key", "analyst"))
    return "  ".join([f"{entry['position']:>6}", when, entry["kind"], *filter(None, told)])
