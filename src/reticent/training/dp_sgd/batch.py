"""What one batch leaves behind for clipping: the terms of every parameter's gradients."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reticent.errors import DataError
from reticent.training.dp_sgd.copies import merged
from reticent.training.dp_sgd.terms import Direct, Memo, Term, join, squared_norms
from reticent.training.dp_sgd.tuning import Tuner


@dataclass(frozen=True)
class Part:
    """Rows `start` to `stop` of a parameter; the whole of it by default."""

    start: int = 0
    stop: int | None = None


WHOLE = Part()


class Batch:
    """The record of one forward and backward pass over `size` examples."""

    def __init__(self, size: int, tuner: Tuner) -> None:
        self.size, self.tuner = size, tuner
        self.non_finite = 0
        self._terms: dict[nn.Parameter, dict[Part, list[Term]]] = {}

    def add(self, parameter: nn.Parameter, term: Term, part: Part = WHOLE) -> None:
        """One more use of `parameter`."""
        self._terms.setdefault(parameter, {}).setdefault(part, []).append(term)

    def check_batch_first(self, values: Tensor, layer: str) -> None:
        """Raises `DataError` unless axis 0 of `values` counts this batch's examples."""
        if values.dim() < 2 or len(values) != self.size:
            raise DataError(
                f"{layer} expected one row for each of the batch's {self.size} examples as its "
                f"first axis, got shape={tuple(values.shape)}. Keep the batch axis first, and do "
                "not merge it with others before a layer that has parameters."
            )

    def finish(self) -> None:
        """Bring every parameter's terms into their fewest; call once, after the backward pass."""
        for parameter, parts in self._terms.items():
            if len(parts) > 1 and not _disjoint(list(parts)):
                self._terms[parameter] = {WHOLE: [_as_whole(parameter, parts)]}
        for parts in self._terms.values():
            for part, terms in parts.items():
                if len(terms) > 1:
                    parts[part] = join(terms, self.tuner)

    def merge(self, copies: int) -> None:
        """Make one example of every `copies` adjacent rows; call once, after `finish`."""
        for parts in self._terms.values():
            for part, terms in parts.items():
                parts[part] = [merged(term, copies, self.tuner) for term in terms]
        self.size //= copies

    def squared_norms(self, groups: Sequence[Sequence[nn.Parameter]]) -> Tensor:
        """Squared norms of each example's gradient in each group, shape (groups, B).

        Examples whose gradient is not finite are set to zero in every term; their norm is zero.
        """
        norms = self._norms(groups)
        broken = ~torch.isfinite(norms).all(0)
        self.non_finite = int(broken.sum())
        if self.non_finite:
            for parts in self._terms.values():
                for part, terms in parts.items():
                    parts[part] = [term.without(broken) for term in terms]
            norms = self._norms(groups)
        return norms

    def _norms(self, groups: Sequence[Sequence[nn.Parameter]]) -> Tensor:
        memo: Memo = {}
        rows = []
        for group in groups:
            found = [
                squared_norms(terms, memo)
                for parameter in group
                for terms in self._terms.get(parameter, {}).values()
            ]
            rows.append(torch.stack(found).sum(0) if found else torch.zeros(self.size))
        return torch.stack(rows)

    def add_weighted(
        self, parameter: nn.Parameter, weights: Tensor, out: Tensor, beta: int = 1
    ) -> None:
        """out = beta out + sum_b weights[b] g_b, beta 0 or 1; `out` has the parameter's shape."""
        parts = self._terms.get(parameter, {})
        if not beta and WHOLE not in parts:
            out.zero_()
            beta = 1
        for part, terms in parts.items():
            target = out if part is WHOLE else out[part.start : part.stop]
            for index, term in enumerate(terms):
                term.add_weighted(weights, target, 1 if index else beta)

    def per_example(self, parameter: nn.Parameter) -> Tensor:
        """Each example's gradient, shape (B, *parameter): for tests and the oracle."""
        parts = self._terms.get(parameter, {})
        return _as_whole(parameter, parts, self.size).per_example()


def _disjoint(parts: list[Part]) -> bool:
    ordered = sorted(parts, key=lambda part: part.start)
    return all(
        before.stop is not None and before.stop <= after.start
        for before, after in itertools.pairwise(ordered)
    )


def _as_whole(
    parameter: nn.Parameter, parts: dict[Part, list[Term]], size: int | None = None
) -> Direct:
    if size is None:
        size = len(next(iter(parts.values()))[0].per_example())
    total = torch.zeros(size, *parameter.shape, dtype=parameter.dtype)
    for part, terms in parts.items():
        target = total if part is WHOLE else total[:, part.start : part.stop]
        for term in terms:
            target += term.per_example()
    return Direct(total)
