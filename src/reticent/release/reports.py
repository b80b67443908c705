"""Local reports of a held table: every record randomised on its own, charged once each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reticent.errors import ConfigError, DataError
from reticent.guarantee import Adversary, DifferentialPrivacy, Guarantee, Pillar
from reticent.privacy.ledger import Ledger, pure_dp
from reticent.release.bounds import check_bounds
from reticent.release.grammar import check_categories
from reticent.release.local.draws import Source, source_for
from reticent.release.local.hadamard import HadamardResponse
from reticent.release.local.hashing import LocalHashing
from reticent.release.local.numeric import (
    Duchi,
    Hybrid,
    MeanEstimate,
    NumericMechanism,
    Piecewise,
    from_unit,
    mean_estimate,
    to_unit,
)
from reticent.release.local.oracle import Estimate, FrequencyOracle
from reticent.release.local.rappor import Rappor
from reticent.release.local.response import RandomisedResponse
from reticent.release.local.subset import SubsetSelection
from reticent.release.local.unary import UnaryEncoding
from reticent.release.spending import Holding, Spent, registered, spending
from reticent.release.table import (
    Table,
    codes,
    expect_columns,
    first_of_each_user,
    numbers,
    read_table,
    size,
)

FREQUENCY: Mapping[str, Callable[[int, float], FrequencyOracle]] = {
    "response": lambda k, epsilon: RandomisedResponse(categories=k, epsilon=epsilon),
    "oue": lambda k, epsilon: UnaryEncoding(categories=k, epsilon=epsilon),
    "sue": lambda k, epsilon: UnaryEncoding(categories=k, epsilon=epsilon, symmetric=True),
    "olh": lambda k, epsilon: LocalHashing(categories=k, epsilon=epsilon),
    "hadamard": lambda k, epsilon: HadamardResponse(categories=k, epsilon=epsilon),
    "subset": lambda k, epsilon: SubsetSelection(categories=k, epsilon=epsilon),
    "rappor": lambda k, epsilon: Rappor(categories=k, epsilon=epsilon),
}
NUMERIC: Mapping[str, Callable[[float], NumericMechanism]] = {
    "duchi": lambda epsilon: Duchi(epsilon=epsilon),
    "piecewise": lambda epsilon: Piecewise(epsilon=epsilon),
    "hybrid": lambda epsilon: Hybrid(epsilon=epsilon),
}

COLLECTOR = Adversary(
    name="collector",
    sees="one report of each record, in the order of the records",
    knows="who sent which report, and every other record",
)
VOID = (
    "none: a seed repeats the randomisation, so whoever knows it can undo it; for experiments only"
)


@dataclass(frozen=True, kw_only=True)
class Reports:
    """Randomised reports, what they tell in sum, their guarantee, and the ledger's entry.

    `guarantee` and `spent` are None for an experiment, and `void` then says why.
    """

    mechanism: str
    epsilon_per_report: float
    reports: NDArray[Any]
    estimate: Estimate | MeanEstimate
    categories: tuple[str, ...]
    guarantee: Guarantee | None
    spent: Spent | None
    void: str | None


@dataclass(frozen=True, kw_only=True)
class Randomiser:
    """A local mechanism by name, with the public domain of the column that it randomises.

    `catch_all` is the category that stands for missing values and for all others. Nothing is ever
    dropped: that a report is missing would tell its value for certain.
    """

    mechanism: str
    epsilon: float
    categories: tuple[str, ...] = ()
    bounds: tuple[float, float] | None = None
    catch_all: str | None = None

    def __post_init__(self) -> None:
        if self.mechanism not in {*FREQUENCY, *NUMERIC}:
            raise ConfigError(
                f"Expected one of {[*FREQUENCY, *NUMERIC]}, got mechanism={self.mechanism!r}."
            )
        is_numeric = self.mechanism in NUMERIC
        if is_numeric != (self.bounds is not None) or is_numeric == bool(self.categories):
            raise ConfigError(
                f"Expected {'bounds' if is_numeric else 'categories'} alone for "
                f"mechanism={self.mechanism!r}, got categories={list(self.categories)[:12]}, "
                f"bounds={self.bounds}. They are public: no data is read to find them."
            )
        if self.bounds is not None:
            check_bounds(*self.bounds)
        else:
            check_categories(self.categories)
        if self.catch_all is not None and self.catch_all not in self.categories:
            raise ConfigError(
                f"Expected one of the categories, got catch_all={self.catch_all!r}. Add it to them."
            )
        self.build()

    def build(self) -> FrequencyOracle | NumericMechanism:
        """The mechanism itself."""
        if self.mechanism in NUMERIC:
            return NUMERIC[self.mechanism](self.epsilon)
        return FREQUENCY[self.mechanism](len(self.categories), self.epsilon)

    def run(
        self, table: Table, column: str, rows: NDArray[np.bool_], source: Source
    ) -> tuple[NDArray[Any], Estimate | MeanEstimate]:
        """Reports of the rows that count, and their estimate; `DataError` for missing values."""
        if self.bounds is not None:
            numeric = NUMERIC[self.mechanism](self.epsilon)
            values = _complete(numbers(table, column)[rows], column)
            told = numeric.randomise(to_unit(values, *self.bounds), source)
            return told, from_unit(mean_estimate(numeric, told), *self.bounds)
        oracle = FREQUENCY[self.mechanism](len(self.categories), self.epsilon)
        reports = oracle.randomise(
            self._places(codes(table, column, self.categories)[rows]), source
        )
        return reports, oracle.estimate(reports)

    def _places(self, held: NDArray[np.int64]) -> NDArray[np.int64]:
        if self.catch_all is not None:
            return np.where(held < 0, self.categories.index(self.catch_all), held)
        if bool((held < 0).any()):
            raise DataError(
                f"Expected only the {len(self.categories)} categories, got missing or other "
                "values. Nothing was released, but a charge stays: the refusal tells something "
                "about the records. Name one category as the catch-all."
            )
        return held


def release_reports(
    data: Path | str | Table,
    column: str,
    randomiser: Randomiser,
    *,
    ledger: Ledger | None,
    dataset: str | None = None,
    user: str | None = None,
    contributions: int = 1,
    key: str | None = None,
    analyst: str = "",
    experiment: bool = False,
    seed: int | None = None,
) -> Reports:
    """One local report per record of a held table.

    Each record sends one report and so spends `randomiser.epsilon` once: the ledger is charged
    that, times `contributions` where the budget protects users, of whom the first so many records
    are reported. An experiment (`experiment=True` with a seed) has no guarantee, is for data that
    need none, and takes no ledger.
    """
    source = source_for(experiment=experiment, seed=seed)
    if source.is_secure == (ledger is None):
        raise ConfigError(
            "Expected a ledger, and none for an experiment, got "
            f"ledger={'none' if ledger is None else 'one'}, experiment={experiment}. A release "
            "under a seed has no guarantee that a ledger could hold."
        )
    holding = Holding(
        data=Path(data) if isinstance(data, str) else data,
        dataset=dataset,
        user=user,
        contributions=contributions,
    )
    if ledger is None:
        table = read_table(holding.data)
        expect_columns(table, [column] if user is None else [column, user])
        reports, found = randomiser.run(table, column, _rows(table, holding), source)
        return _made(randomiser, reports, found, None, None)
    registration = registered(ledger, holding)
    with spending(
        ledger,
        holding,
        registration,
        pure_dp(epsilon=contributions * randomiser.epsilon),
        columns=[column],
        event=_event(randomiser, column, contributions),
        key=key,
        analyst=analyst,
    ) as entry:
        rows = _rows(entry.table, holding)
        reports, found = randomiser.run(entry.table, column, rows, source)
    guarantee = _guarantee(randomiser, registration.unit, contributions)
    return _made(randomiser, reports, found, guarantee, entry.spent)


def _made(
    randomiser: Randomiser,
    reports: NDArray[Any],
    found: Estimate | MeanEstimate,
    guarantee: Guarantee | None,
    spent: Spent | None,
) -> Reports:
    return Reports(
        mechanism=randomiser.mechanism,
        epsilon_per_report=randomiser.epsilon,
        reports=reports,
        estimate=found,
        categories=randomiser.categories,
        guarantee=guarantee,
        spent=spent,
        void=VOID if guarantee is None else None,
    )


def _event(randomiser: Randomiser, column: str, contributions: int) -> dict[str, Any]:
    return {
        "what": "local reports",
        "mechanism": randomiser.mechanism,
        "column": column,
        "epsilon_per_report": randomiser.epsilon,
        "contributions": contributions,
        "relation": "replace one; the number of reports is public",
    }


def _guarantee(randomiser: Randomiser, unit: str, contributions: int) -> Guarantee:
    return Guarantee(
        id=f"release-local-{randomiser.mechanism}",
        pillar=Pillar.TRAINING_DATA,
        adversary=COLLECTOR,
        strength=DifferentialPrivacy(
            epsilon=contributions * randomiser.epsilon,
            delta=0.0,
            neighboring_relation="replace one",
            unit=unit,
        ),
        mechanism=f"local differential privacy, {randomiser.mechanism}, "
        f"epsilon={randomiser.epsilon:g} per report",
        assumptions=(
            "How many reports there are, and who sent them, is public; their values are not.",
            "Categories or bounds were chosen without looking at the data.",
            "The operating system's random bytes are uniform.",
            "These reports alone: all releases together are held by the ledger's cap.",
        ),
        source="likelihood ratios in whole numbers, see reticent.release.local.proof",
    )


def _rows(table: Table, holding: Holding) -> NDArray[np.bool_]:
    if holding.user is None:
        return np.ones(size(table), dtype=np.bool_)
    return first_of_each_user(table, holding.user, holding.contributions)


def _complete(values: NDArray[np.float64], column: str) -> NDArray[np.float64]:
    if bool(np.isnan(values).any()):
        raise DataError(
            f"Expected a value in every record of column={column!r}, got missing ones. Nothing "
            "was released, but a charge stays: the refusal tells something about the records. Put "
            "a fixed number in their place beforehand."
        )
    return values


def category_list(text: str) -> tuple[str, ...]:
    """Categories written with commas between them."""
    made: Sequence[str] = [part.strip() for part in text.split(",")]
    return tuple(part for part in made if part)
