"""The queries that can be asked of a table, as data, and how they are written.

    count()                                  how many records
    sum(hours, 0, 100)                       column, lower bound, upper bound
    mean(age, 0, 100)
    quantile(age, 0.5, 0, 100)               share below, bounds; a fifth argument: candidates
    histogram(sex, ["Female", "Male"])       public categories
    histogram(age, 0, 100, 10)               bounds, number of bins
    top(3, country, ["DE", "FR", "IT"])      the most frequent of public categories

Any of them may end in `where COLUMN = VALUE`, with = != < <= > >= and `and`. A column's name with
spaces or signs goes in quotes. Bounds and categories are what the asker knows beforehand: nothing
here looks at data.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from reticent.errors import ConfigError
from reticent.release.bounds import check_bounds
from reticent.release.table import canonical

Comparison = Literal["=", "!=", "<", "<=", ">", ">="]
_ORDERED = ("<", "<=", ">", ">=")
_TOKEN = re.compile(
    r"""\s*(?:(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?(?![\w.]))
    |(?P<name>[A-Za-z_][\w.-]*)
    |(?P<text>"[^"]*"|'[^']*')
    |(?P<sign><=|>=|!=|[=<>(),\[\]]))""",
    re.VERBOSE,
)
_EXAMPLE = "Write for example: mean(age, 0, 100) where sex = 'Female'"
_MOST_CANDIDATES = 100_000


@dataclass(frozen=True, kw_only=True)
class Condition:
    """A rule that looks at one record alone."""

    column: str
    comparison: Comparison
    value: str | float

    def __post_init__(self) -> None:
        if self.comparison in _ORDERED and isinstance(self.value, str):
            raise ConfigError(
                f"Expected a number after {self.comparison}, got value={self.value!r}."
            )


@dataclass(frozen=True, kw_only=True)
class Count:
    """How many records meet the conditions."""

    where: tuple[Condition, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Sum:
    """The sum of a column whose values are clamped to public bounds."""

    column: str
    lower: float
    upper: float
    where: tuple[Condition, ...] = ()

    def __post_init__(self) -> None:
        check_bounds(self.lower, self.upper)


@dataclass(frozen=True, kw_only=True)
class Mean:
    """The mean of a column whose values are clamped to public bounds."""

    column: str
    lower: float
    upper: float
    where: tuple[Condition, ...] = ()

    def __post_init__(self) -> None:
        check_bounds(self.lower, self.upper)


@dataclass(frozen=True, kw_only=True)
class Quantile:
    """The value below which the share `at` of a column lies: one of evenly spaced candidates."""

    column: str
    at: float
    lower: float
    upper: float
    candidates: int = 1001
    where: tuple[Condition, ...] = ()

    def __post_init__(self) -> None:
        check_bounds(self.lower, self.upper)
        if not 0 <= self.at <= 1 or not 2 <= self.candidates <= _MOST_CANDIDATES:
            raise ConfigError(
                f"Expected 0 <= at <= 1 and 2 to {_MOST_CANDIDATES} candidates, got at={self.at}, "
                f"candidates={self.candidates}. The median is quantile(column, 0.5, lower, upper)."
            )


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """How many records lie in each public category."""

    column: str
    categories: tuple[str, ...]
    where: tuple[Condition, ...] = ()

    def __post_init__(self) -> None:
        check_categories(self.categories)


@dataclass(frozen=True, kw_only=True)
class BinnedHistogram:
    """How many values lie in each of `bins` equal parts of [lower, upper]."""

    column: str
    lower: float
    upper: float
    bins: int
    where: tuple[Condition, ...] = ()

    def __post_init__(self) -> None:
        check_bounds(self.lower, self.upper)
        if not 1 <= self.bins <= _MOST_CANDIDATES:
            raise ConfigError(f"Expected 1 to {_MOST_CANDIDATES} bins, got bins={self.bins}.")


@dataclass(frozen=True, kw_only=True)
class Top:
    """The `most` categories with the most records, in order, without their counts."""

    most: int
    column: str
    categories: tuple[str, ...]
    where: tuple[Condition, ...] = ()

    def __post_init__(self) -> None:
        check_categories(self.categories)
        if not 1 <= self.most <= len(self.categories):
            raise ConfigError(
                f"Expected 1 <= most <= {len(self.categories)} categories, got most={self.most}."
            )


Query = Count | Sum | Mean | Quantile | Histogram | BinnedHistogram | Top


def columns_of(query: Query) -> tuple[str, ...]:
    """The columns that a query reads."""
    own = () if isinstance(query, Count) else (query.column,)
    return (*own, *(condition.column for condition in query.where))


def check_categories(categories: Sequence[str]) -> None:
    """`ConfigError` unless there are categories, each once."""
    if not categories or len({canonical(name) for name in categories}) != len(categories):
        raise ConfigError(
            f"Expected distinct public categories, got categories={list(categories)[:12]}. Name "
            "those that are known without the data; all others are counted as other."
        )


def parse(text: str) -> Query:
    """The query that `text` says; `ConfigError` that shows what was understood so far."""
    return _Reader(text).query()


class _Reader:
    """Recursive descent over the tokens of one query."""

    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0
        self.tokens: list[tuple[str, str, int]] = []
        place = 0
        stripped = text.rstrip()
        while place < len(stripped):
            found = _TOKEN.match(stripped, place)
            if found is None or found.lastgroup is None:
                raise self._error(place, "a name, number, text or sign")
            group = found.lastgroup
            self.tokens.append((group, found[group], found.start(group)))
            place = found.end()

    def query(self) -> Query:
        verb = self._take("name", "count, sum, mean, quantile, histogram or top").lower()
        self._sign("(")
        given: list[str | float | tuple[str, ...]] = []
        while not self._is(")"):
            if given:
                self._sign(",")
            given.append(self._argument())
        self._sign(")")
        where = self._conditions()
        if self.at < len(self.tokens):
            raise self._error(self.tokens[self.at][2], "the end, or: where COLUMN = VALUE")
        return _build(verb, given, where)

    def _argument(self) -> str | float | tuple[str, ...]:
        if not self._is("["):
            return self._value()
        self._sign("[")
        listed: list[str] = []
        while not self._is("]"):
            if listed:
                self._sign(",")
            value = self._value()
            listed.append(value if isinstance(value, str) else canonical(value))
        self._sign("]")
        return tuple(listed)

    def _value(self) -> str | float:
        kind, token, place = self._next("a name, number or text")
        if kind == "sign":
            raise self._error(place, "a name, number or text")
        if kind == "number":
            return float(token)
        return token[1:-1] if kind == "text" else token

    def _conditions(self) -> tuple[Condition, ...]:
        made: list[Condition] = []
        while self._word("and" if made else "where"):
            column = self._value()
            _, sign, place = self._next("a comparison")
            if not isinstance(column, str) or sign not in get_args(Comparison):
                raise self._error(place, "a column and one of = != < <= > >=")
            comparison: Comparison = sign  # type: ignore[assignment]
            made.append(Condition(column=column, comparison=comparison, value=self._value()))
        return tuple(made)

    def _word(self, word: str) -> bool:
        found = self.at < len(self.tokens) and self.tokens[self.at][:2] == ("name", word)
        self.at += found
        return found

    def _is(self, sign: str) -> bool:
        if self.at >= len(self.tokens):
            raise self._error(len(self.text), repr(sign))
        return self.tokens[self.at][:2] == ("sign", sign)

    def _sign(self, sign: str) -> None:
        if not self._is(sign):
            raise self._error(self.tokens[self.at][2], repr(sign))
        self.at += 1

    def _take(self, kind: str, wanted: str) -> str:
        found, token, place = self._next(wanted)
        if found != kind:
            raise self._error(place, wanted)
        return token

    def _next(self, wanted: str) -> tuple[str, str, int]:
        if self.at >= len(self.tokens):
            raise self._error(len(self.text), wanted)
        self.at += 1
        return self.tokens[self.at - 1]

    def _error(self, place: int, wanted: str) -> ConfigError:
        return ConfigError(
            f"Expected {wanted} at place {place + 1} of query={self.text!r}, after "
            f"{self.text[:place]!r}. {_EXAMPLE}"
        )


def _build(
    verb: str, given: Sequence[str | float | tuple[str, ...]], where: tuple[Condition, ...]
) -> Query:
    kinds = "".join(
        "t" if isinstance(item, str) else "n" if isinstance(item, float) else "l" for item in given
    )
    item = list[object](given)
    match verb, kinds:
        case "count", "":
            return Count(where=where)
        case "sum" | "mean", "tnn":
            kind = Sum if verb == "sum" else Mean
            return kind(column=_t(item[0]), lower=_n(item[1]), upper=_n(item[2]), where=where)
        case "quantile", "tnnn" | "tnnnn":
            more = {"candidates": _whole(item[4], "candidates")} if len(item) == 5 else {}
            return Quantile(
                column=_t(item[0]),
                at=_n(item[1]),
                lower=_n(item[2]),
                upper=_n(item[3]),
                where=where,
                **more,
            )
        case "histogram", "tl":
            return Histogram(column=_t(item[0]), categories=_l(item[1]), where=where)
        case "histogram", "tnnn":
            return BinnedHistogram(
                column=_t(item[0]),
                lower=_n(item[1]),
                upper=_n(item[2]),
                bins=_whole(item[3], "bins"),
                where=where,
            )
        case "top", "ntl":
            return Top(
                most=_whole(item[0], "most"),
                column=_t(item[1]),
                categories=_l(item[2]),
                where=where,
            )
    raise ConfigError(
        f"Expected count(), sum(column, lower, upper), mean(column, lower, upper), "
        "quantile(column, share, lower, upper), histogram(column, [categories]), "
        "histogram(column, lower, upper, bins) or top(number, column, [categories]), got "
        f"{verb}({', '.join(map(str, given))}). Bounds and categories are public: no data is read "
        f"to find them. {_EXAMPLE}"
    )


def _t(item: object) -> str:
    return str(item)


def _n(item: object) -> float:
    return float(str(item))


def _l(item: object) -> tuple[str, ...]:
    return tuple(item) if isinstance(item, tuple) else ()


def _whole(item: object, name: str) -> int:
    number = _n(item)
    if not number.is_integer():
        raise ConfigError(f"Expected a whole number of {name}, got {name}={number:g}.")
    return int(number)
