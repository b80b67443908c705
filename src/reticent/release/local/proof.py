"""Exhaustive likelihood-ratio proof: the largest ratio over all pairs of inputs and all reports."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from fractions import Fraction

from reticent.errors import ConfigError


def largest_ratio(likelihoods: Sequence[Mapping[Hashable, Fraction]]) -> Fraction:
    """The largest P(report | x) / P(report | y) over all inputs x, y and all reports, exactly.

    `likelihoods` holds one complete distribution per input, as the mechanisms list them. A
    mechanism with this ratio r is epsilon-DP for every epsilon with e**epsilon >= r, and for no
    smaller one. `ConfigError` where a distribution doesn't sum to exactly 1, or a report has
    probability 0 under one input and not under another: then no epsilon holds.
    """
    for number, table in enumerate(likelihoods):
        if sum(table.values()) != 1:
            raise ConfigError(
                f"Expected probabilities that sum to 1, got {float(sum(table.values()))} for "
                f"input={number}."
            )
    largest = Fraction(1)
    for report in {report for table in likelihoods for report in table}:
        found = [table.get(report, Fraction(0)) for table in likelihoods]
        if max(found) and not min(found):
            raise ConfigError(
                f"Expected report={report!r} under every input or none, got probability 0 under "
                f"input={found.index(min(found))}. No epsilon holds."
            )
        if max(found):
            largest = max(largest, max(found) / min(found))
    return largest
