"""Search of a canary's space: how many fillings a language model finds likelier than the secret.

Two kinds of model are searched. `LogPerplexity` is any function from whole sequences to their
cost -log p. A `SequenceModel` answers token by token and lets the search share prefixes: each
inner node of the tree of prefixes is evaluated once, and since costs only grow along a path, a
prefix that costs more than the secret is never opened (Carlini et al. 2019, section 7, use the
same bound to extract). Both are exact and use memory for one block of rows, not for the space.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from reticent.attacks.memorisation.canaries import Template
from reticent.errors import ConfigError, DataError

LogPerplexity = Callable[[NDArray[np.int64]], NDArray[np.floating[Any]]]
"""Token sequences (n, places) to their costs (n,), -log p in nats or bits: lower is likelier."""

ROWS = 4096
TOLERANCE = 1e-6
"""Relative difference of costs that float32 models can't tell from none: such costs are tied."""


@runtime_checkable
class SequenceModel(Protocol):
    """A language model that reads one token at a time."""

    def step(self, tokens: NDArray[np.int64], state: Any) -> tuple[NDArray[np.floating[Any]], Any]:
        """Log-probabilities (n, V) in nats of the token after `tokens` (n,), and the new state.

        `state` is None before the first token.
        """

    def pick(self, state: Any, rows: NDArray[np.int64]) -> Any:
        """The state of the sequences `rows` (with repetition)."""


Model = LogPerplexity | SequenceModel


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Where costs (k,) stand in their space: `less` (k,) fillings are cheaper, `tied` (k,) equal.

    A filling counts itself as tied, so `tied` is at least 1. `visited` is the number of sequences
    or prefixes that the model was asked about.
    """

    less: NDArray[np.int64]
    tied: NDArray[np.int64]
    visited: int


def sequence_costs(
    model: Model, sequences: NDArray[np.int64], *, rows: int = ROWS
) -> NDArray[np.float64]:
    """Costs (n,) of token sequences (n, places), computed `rows` at a time.

    A `SequenceModel` is not charged for the first token, which nothing precedes. Raises
    `DataError` for costs that are NaN.
    """
    parts = []
    for start in range(0, len(sequences), rows):
        block = sequences[start : start + rows]
        if isinstance(model, SequenceModel):
            parts.append(_walked(model, block))
        else:
            parts.append(np.asarray(model(block), dtype=np.float64).reshape(len(block)))
    costs = np.concatenate(parts) if parts else np.empty(0)
    if np.isnan(costs).any():
        raise DataError("Expected log-perplexities that are numbers, got NaN from the model.")
    return costs


def space_costs(model: Model, template: Template, *, rows: int = ROWS) -> NDArray[np.float64]:
    """Costs (|R|,) of every filling in the template's order: 8 bytes each, the model's apart."""
    if isinstance(model, SequenceModel):
        found = np.empty(template.size)

        def keep(first: int, costs: NDArray[np.float64]) -> None:
            found[first : first + len(costs)] = costs

        _Tree(model, template, rows=rows, bound=np.inf, limit=None).walk(keep)
        return found
    parts = []
    for start in range(0, template.size, rows):
        numbers = np.arange(start, min(start + rows, template.size), dtype=np.int64)
        parts.append(sequence_costs(model, template.sequences(numbers), rows=rows))
    return np.concatenate(parts)


def standing(
    model: Model,
    template: Template,
    costs: NDArray[np.float64],
    *,
    limit: int = 1_000_000,
    rows: int = ROWS,
) -> Standing | None:
    """The exact standing of `costs` (k,) in the space, or None where it takes over `limit` steps.

    Functions of whole sequences are asked about all of R; a `SequenceModel` only about prefixes
    that cost no more than the dearest of `costs`, which finds a memorised secret of any length.
    """
    # The tolerance is relative to each cost; ties include the canary itself.
    slack = TOLERANCE * np.maximum(np.abs(costs), 1.0)
    less = np.zeros(len(costs), dtype=np.int64)
    within = np.zeros(len(costs), dtype=np.int64)

    def count(_first: int, found: NDArray[np.float64]) -> None:
        ordered = np.sort(found)
        less[:] += np.searchsorted(ordered, costs - slack, side="left")
        within[:] += np.searchsorted(ordered, costs + slack, side="right")

    if isinstance(model, SequenceModel):
        bound = float((costs + slack).max())
        tree = _Tree(model, template, rows=rows, bound=bound, limit=limit)
        if not tree.walk(count):
            return None
        visited = tree.visited
    else:
        if template.size > limit:
            return None
        for start in range(0, template.size, rows):
            numbers = np.arange(start, min(start + rows, template.size), dtype=np.int64)
            found = sequence_costs(model, template.sequences(numbers), rows=rows)
            count(start, found)
        visited = template.size
    tied = within - less
    if (tied < 1).any():
        raise ConfigError(
            "Expected the costs of sequences of this template, got one that none of its fillings "
            "has. Does the model answer the same sequence with the same cost in every batch?"
        )
    return Standing(less=less, tied=tied, visited=visited)


def _walked(model: SequenceModel, sequences: NDArray[np.int64]) -> NDArray[np.float64]:
    costs = np.zeros(len(sequences))
    state: Any = None
    everyone = np.arange(len(sequences))
    for place in range(sequences.shape[1] - 1):
        log_probabilities, state = model.step(sequences[:, place], state)
        costs -= log_probabilities[everyone, sequences[:, place + 1]]
    return costs


class _Tree:
    """A depth-first walk over prefixes, `rows` of them at a time."""

    def __init__(
        self,
        model: SequenceModel,
        template: Template,
        *,
        rows: int,
        bound: float,
        limit: int | None,
    ) -> None:
        if len(template.positions[0]) > 1 or len(template.positions) < 2:
            raise ConfigError(
                "Expected a fixed first token, which nothing precedes and no probability is asked "
                f"of, got {len(template.positions[0])} choices. Put a start token before it."
            )
        self.model, self.rows, self.bound, self.limit = model, rows, bound, limit
        self.choices = [np.asarray(choices, dtype=np.int64) for choices in template.positions]
        # How many fillings start with one prefix that ends at a place.
        self.under = np.ones(len(self.choices), dtype=object)
        for place in range(len(self.choices) - 2, -1, -1):
            self.under[place] = self.under[place + 1] * len(self.choices[place + 1])
        self.visited = 0

    def walk(self, leaf: Callable[[int, NDArray[np.float64]], None]) -> bool:
        """Calls `leaf(first number, costs)` in order; False where the limit stops it.

        First numbers are those of the template where no bound prunes.
        """
        self.leaf = leaf
        return self._open(0, self.choices[0], np.zeros(1), None, np.zeros(1, dtype=np.int64), 0)

    def _open(
        self,
        place: int,
        tokens: NDArray[np.int64],
        costs: NDArray[np.float64],
        state: Any,
        parents: NDArray[np.int64],
        first: int,
    ) -> bool:
        """The subtrees of prefixes that end in `tokens` at `place`, whose costs are `costs`."""
        for start in range(0, len(tokens), self.rows):
            part = slice(start, start + self.rows)
            self.visited += len(tokens[part])
            if self.limit is not None and self.visited > self.limit:
                return False
            before = None if state is None else self.model.pick(state, parents[part])
            log_probabilities, after = self.model.step(tokens[part], before)
            following = self.choices[place + 1]
            grown = costs[part, None] - log_probabilities[:, following].astype(np.float64)
            if np.isnan(grown).any():
                raise DataError("Expected log-probabilities that are numbers, got NaN.")
            flat = grown.reshape(-1)
            here = first + start * int(self.under[place])
            if place + 2 == len(self.choices):
                self.leaf(here, flat)
                continue
            kept = np.flatnonzero(flat <= self.bound)
            mothers = kept // len(following)
            if not self._open(
                place + 1, following[kept % len(following)], flat[kept], after, mothers, here
            ):
                return False
        return True
