"""Queries as text: what they mean, and what is refused with a remedy."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reticent.errors import ConfigError
from reticent.release.grammar import (
    BinnedHistogram,
    Condition,
    Count,
    Histogram,
    Mean,
    Quantile,
    Query,
    Sum,
    Top,
    columns_of,
    parse,
)

MEANT = {
    "count()": Count(),
    "  COUNT ( ) ": Count(),
    "sum(hours, -1.5, 1e2)": Sum(column="hours", lower=-1.5, upper=100.0),
    "mean(age,0,100)": Mean(column="age", lower=0.0, upper=100.0),
    'mean("hours per week", 0, .5)': Mean(column="hours per week", lower=0.0, upper=0.5),
    "mean(capital-gain, 0, 9)": Mean(column="capital-gain", lower=0.0, upper=9.0),
    "quantile(age, 0.5, 0, 100)": Quantile(column="age", at=0.5, lower=0.0, upper=100.0),
    "quantile(age, 1, 0, 100, 11)": Quantile(
        column="age", at=1.0, lower=0.0, upper=100.0, candidates=11
    ),
    "histogram(sex, ['F', \"M\", 1.0])": Histogram(column="sex", categories=("F", "M", "1")),
    "histogram(age, 0, 100, 10)": BinnedHistogram(column="age", lower=0.0, upper=100.0, bins=10),
    "top(2, job, [a, b, c])": Top(most=2, column="job", categories=("a", "b", "c")),
    "count() where age >= 18 and sex = 'F, and so on'": Count(
        where=(
            Condition(column="age", comparison=">=", value=18.0),
            Condition(column="sex", comparison="=", value="F, and so on"),
        )
    ),
    "sum(x,0,1) where y!=3": Sum(
        column="x",
        lower=0.0,
        upper=1.0,
        where=(Condition(column="y", comparison="!=", value=3.0),),
    ),
}

REFUSED = {
    "": "count, sum, mean",
    "mean": r"'\('",
    "mean(age, 0": r"'\)'",
    "mean(age, 0, 100": r"'\)'",
    "mean(age)": r"mean\(column, lower, upper\)",
    "mean(age, 100, 0)": "lower < upper",
    "mean(age, 5, 5)": "lower < upper",
    "mean(age, nan, 5)": "Bounds and categories are public",
    "mean(age, 0, 1e999)": "finite bounds",
    "sum(0, 1, 2)": "Bounds and categories are public",
    "maximum(age, 0, 1)": "got maximum",
    "mean(age, 0, 100) please": "the end, or: where",
    "count() where": "a name, number or text",
    "count() where age": "a comparison",
    "count() where age ~ 3": "a name, number, text or sign",
    "count() where age < 'old'": "a number after <",
    "count() where 3 = age": "a column and one of",
    "count() where a = 1 and": "a name, number or text",
    "histogram(sex, [])": "distinct public categories",
    "histogram(sex, [a, a])": "distinct public categories",
    "histogram(sex, [1, 1.0])": "distinct public categories",
    "histogram(age, 0, 1, 2.5)": "whole number of bins",
    "histogram(age, 0, 1, 0)": "bins=0",
    "top(4, job, [a, b])": "most=4",
    "quantile(age, 1.5, 0, 1)": "at=1.5",
    "quantile(age, 0.5, 0, 1, 1)": "candidates=1",
    "mean(age; 0, 1)": "a name, number, text or sign",
    "mean(__import__('os'), 0, 1)": r"','",
}


@pytest.mark.parametrize("text", MEANT)
def test_a_query_means_what_it_says(text: str) -> None:
    assert parse(text) == MEANT[text]


@pytest.mark.parametrize("text", REFUSED)
def test_what_cannot_be_asked_is_refused_with_a_remedy(text: str) -> None:
    with pytest.raises(ConfigError, match=REFUSED[text]):
        parse(text)


def test_the_columns_of_a_query_are_its_own_and_its_conditions() -> None:
    assert columns_of(parse("count() where a = 1 and b < 2")) == ("a", "b")
    assert columns_of(parse("mean(x, 0, 1) where a = 1")) == ("x", "a")


@given(st.text(alphabet="count(),meag[]'\" =<>!0123456789.-whrd\n", max_size=40))
def test_any_text_is_a_query_or_refused(text: str) -> None:
    try:
        made: Query = parse(text)
    except ConfigError:
        return
    assert isinstance(made, Query)
