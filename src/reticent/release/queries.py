"""Global queries: one noisy answer about a table, charged to its budget."""

from __future__ import annotations

import operator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reticent.errors import ConfigError, DataError
from reticent.guarantee import Adversary, DifferentialPrivacy, Guarantee, Pillar
from reticent.privacy.ledger import Dataset, Ledger
from reticent.release.grammar import (
    BinnedHistogram,
    Condition,
    Count,
    Histogram,
    Query,
    Top,
    columns_of,
    parse,
)
from reticent.release.mechanisms import Answer, edges, mechanism
from reticent.release.price import ADD_OR_REMOVE, Price
from reticent.release.spending import Holding, Spent, registered, spending
from reticent.release.table import (
    Missing,
    Table,
    canonical,
    codes,
    first_of_each_user,
    numbers,
    size,
    texts,
)

ANALYST = Adversary(
    name="analyst",
    sees="every answer that was released",
    knows="every record but one person's",
)
_COMPARE = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@dataclass(frozen=True, kw_only=True)
class Released:
    """One answer, its guarantee, and its entry in the ledger."""

    query: Query
    answer: Answer
    guarantee: Guarantee
    spent: Spent


def release_query(
    data: Path | str | Table,
    query: Query | str,
    *,
    ledger: Ledger,
    epsilon: float | None = None,
    rho: float | None = None,
    dataset: str | None = None,
    user: str | None = None,
    contributions: int = 1,
    missing: Missing = "refuse",
    key: str | None = None,
    analyst: str = "",
) -> Released:
    """The answer to one query about a table that the ledger granted a budget.

    Pure epsilon-DP with `epsilon`, zero-concentrated DP with `rho`, for one record more or less, or
    where the budget is per user, for one user, of whom the first `contributions` records count.
    `missing="drop"` leaves out records without a value; "refuse" raises `DataError`, and as that
    tells something about the records, the charge stays. Raises before anything is read:
    `ConfigError` for queries and prices that can't be, `BudgetExhaustedError` over the cap.
    """
    if missing not in ("refuse", "drop"):
        raise ConfigError(f"Expected missing 'refuse' or 'drop', got missing={missing!r}.")
    asked = parse(query) if isinstance(query, str) else query
    price = Price(epsilon=epsilon, rho=rho)
    ready = mechanism(asked, price, contributions)
    if ready.loss > price.amount:
        raise ConfigError(f"Expected a loss within the price, got loss={ready.loss}, {price}.")
    holding = Holding(
        data=Path(data) if isinstance(data, str) else data,
        dataset=dataset,
        user=user,
        contributions=contributions,
    )
    registration = registered(ledger, holding)
    guarantee = _guarantee(asked, price, ledger, registration)
    with spending(
        ledger,
        holding,
        registration,
        price.cost,
        columns=columns_of(asked),
        event=_event(asked, price, contributions),
        key=key,
        analyst=analyst,
    ) as entry:
        answer = ready.run(_column(entry.table, asked, holding, missing))
    return Released(query=asked, answer=answer, guarantee=guarantee, spent=entry.spent)


def _event(query: Query, price: Price, contributions: int) -> dict[str, Any]:
    return {
        "what": "query",
        "kind": type(query).__name__,
        "query": {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(query).items()},
        "epsilon": price.epsilon,
        "rho": price.rho,
        "contributions": contributions,
    }


def _guarantee(query: Query, price: Price, ledger: Ledger, dataset: Dataset) -> Guarantee:
    delta = min(item.cap.delta for item in ledger.balances(dataset.id))
    epsilon, delta = price.epsilon_delta(delta)
    return Guarantee(
        id=f"release-{type(query).__name__.lower()}",
        pillar=Pillar.TRAINING_DATA,
        adversary=ANALYST,
        strength=DifferentialPrivacy(
            epsilon=epsilon,
            delta=delta,
            neighboring_relation=ADD_OR_REMOVE,
            unit=dataset.unit,
        ),
        mechanism=f"{type(query).__name__} by OpenDP"
        + ("" if price.rho is None else f", {price.rho:g}-zero-concentrated"),
        assumptions=(
            "Bounds, categories and conditions were chosen without looking at the data.",
            "OpenDP's samplers and privacy maps are as proved; its randomness is secure.",
            "This answer alone: all answers together are held by the ledger's cap.",
            "How long the answer took, and refusals, are not seen by the analyst.",
        ),
        source="Canonne, Kamath & Steinke 2020; OpenDP",
    )


def _column(
    table: Table, query: Query, holding: Holding, missing: Missing
) -> NDArray[np.float64] | NDArray[np.int64]:
    """What the mechanism takes of the rows that count."""
    rows = np.ones(size(table), dtype=np.bool_)
    if holding.user is not None:
        rows &= first_of_each_user(table, holding.user, holding.contributions)
    for condition in query.where:
        rows &= _meets(table, condition)
    if isinstance(query, Count):
        return np.zeros(int(rows.sum()), dtype=np.int64)
    values: NDArray[Any]
    if isinstance(query, Histogram | Top):
        values = codes(table, query.column, query.categories)
        gone = values == -2
    else:
        values = numbers(table, query.column)
        gone = np.isnan(values)
    if missing == "refuse" and bool((gone & rows).any()):
        raise DataError(
            f"Expected a value in every record of column={query.column!r}, got missing ones. "
            "Nothing was released, but the charge stays: that values are missing tells something "
            "about the records. Ask with missing='drop' to leave such records out."
        )
    values = values[rows & ~gone]
    return _binned(values, query) if isinstance(query, BinnedHistogram) else values


def _binned(values: NDArray[np.float64], query: BinnedHistogram) -> NDArray[np.int64]:
    """Each value's bin, -1 outside the bounds."""
    inner = edges(query)[1:-1]
    places = np.searchsorted(inner, values, side="right")
    return np.where((values >= query.lower) & (values <= query.upper), places, -1)


def _meets(table: Table, condition: Condition) -> NDArray[np.bool_]:
    """The rows (n,) that meet the condition; one without a value doesn't."""
    if condition.comparison in _COMPARE:
        values = numbers(table, condition.column)
        with np.errstate(invalid="ignore"):
            made: NDArray[np.bool_] = _COMPARE[condition.comparison](values, condition.value)
        return made
    wanted = canonical(condition.value)
    found = texts(table, condition.column)
    if condition.comparison == "=":
        return np.array([text == wanted for text in found], dtype=np.bool_)
    return np.array([text is not None and text != wanted for text in found], dtype=np.bool_)
