"""What one use of a parameter adds to each example's gradient, kept in factors, not multiplied out.

A term answers three questions about the per-example gradients g_1 .. g_B of one parameter: their
squared norms, their weighted sum, and, where nothing cheaper is exact, the gradients themselves.
Most layers answer the first two without the third (Lee and Kifer 2021, "Scaling up differentially
private deep learning with fast per-example gradient clipping"; Bu et al. 2023, "Differentially
private optimization on large model at small cost"). Shapes: B examples, T positions, I inputs,
O outputs, D embedding size, V vocabulary.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from reticent.models.products import add_product
from reticent.training.dp_sgd.tuning import Tuner

Memo = dict[int, Tensor]

# Scratch that a strategy may fill at a time: it should stay in cache, and memory stays bounded.
SCRATCH_FLOATS = 1 << 20
# A convolution's per-example matrices are kept up to this size, a linear layer's up to this one, or
# either's where they take no more than their factors.
KEPT_FLOATS, KEPT_LINEAR_FLOATS = 1 << 22, 1 << 19
# Examples that strategies are tried on: a whole batch beside the real one would take its memory.
TRIED = 64
_EPS = torch.finfo(torch.float32).eps
_MOST_SLACK = 1e-5


class Term(Protocol):
    """One use of a parameter by a batch."""

    def squared_norms(self, memo: Memo) -> Tensor:
        """||g_b||^2, shape (B,), never too small by more than rounding."""

    def add_weighted(self, weights: Tensor, out: Tensor, beta: int) -> None:
        """out = beta out + sum_b weights[b] g_b, beta 0 or 1; `out` has the parameter's shape."""

    def per_example(self) -> Tensor:
        """The gradients, shape (B, *parameter)."""

    def release(self) -> None:
        """Drop what the sum doesn't need, once the norms are known."""

    def without(self, rows: Tensor) -> Term:
        """The same term with the examples where `rows` (B,) is true set to exactly zero."""


def row_squares(values: Tensor, memo: Memo | None = None) -> Tensor:
    """Squared norms of values[b], shape (B,).

    `vector_norm` runs over the last axis only: float32 sums over more than about 10^5 elements
    would be off by 1e-5.
    """
    if memo is not None and id(values) in memo:
        return memo[id(values)]
    squares: Tensor = torch.linalg.vector_norm(values, dim=-1).square_()
    if squares.dim() > 1:
        squares = squares.flatten(1).sum(1)
    if memo is not None:
        memo[id(values)] = squares
    return squares


def zeroed(values: Tensor, rows: Tensor) -> Tensor:
    """`values` with values[b] = 0 where rows[b]; multiplying would keep NaN and infinity."""
    return values.masked_fill(rows.view(-1, *(1,) * (values.dim() - 1)), 0.0)


class Direct:
    """Per-example gradients as they are: `gradients` (B, *parameter)."""

    def __init__(self, gradients: Tensor) -> None:
        self.gradients = gradients if gradients.dim() > 1 else gradients.unsqueeze(1)
        self._shape = gradients.shape

    def squared_norms(self, memo: Memo) -> Tensor:
        """Row norms."""
        return row_squares(self.gradients, memo)

    def add_weighted(self, weights: Tensor, out: Tensor, beta: int) -> None:
        """One matrix-vector product."""
        out.view(-1).addmv_(self.gradients.reshape(len(weights), -1).t(), weights, beta=beta)

    def per_example(self) -> Tensor:
        """The gradients."""
        return self.gradients.view(self._shape)

    def release(self) -> None:
        """Nothing to drop."""

    def without(self, rows: Tensor) -> Direct:
        """Zero rows."""
        return Direct(zeroed(self.per_example(), rows))


class Outer:
    """g_b = outputs[b] inputs[b]^T: a linear layer on vectors; inputs (B, I), outputs (B, O)."""

    def __init__(self, inputs: Tensor, outputs: Tensor) -> None:
        self.inputs, self.outputs = inputs, outputs

    def squared_norms(self, memo: Memo) -> Tensor:
        """||x||^2 ||g||^2 (Goodfellow 2015, "Efficient per-example gradient computations")."""
        return row_squares(self.inputs, memo) * row_squares(self.outputs, memo)

    def add_weighted(self, weights: Tensor, out: Tensor, beta: int) -> None:
        """One matrix product, the smaller factor scaled."""
        inputs, outputs = _scale_smaller(self.inputs, self.outputs, weights.unsqueeze(1))
        add_product(out, outputs, inputs, beta=beta)

    def per_example(self) -> Tensor:
        """(B, O, I)."""
        return self.outputs.unsqueeze(2) * self.inputs.unsqueeze(1)

    def release(self) -> None:
        """Nothing to drop."""

    def without(self, rows: Tensor) -> Outer:
        """Zero both factors."""
        return Outer(zeroed(self.inputs, rows), zeroed(self.outputs, rows))


class Sequence:
    """g_b = sum_t outputs[b, t] inputs[b, t]^T; inputs (B, T, I), outputs (B, T, O).

    Strategies: "gram" multiplies the Gram matrices of inputs and outputs; "total" keeps the B
    matrices g_b; "chunked" forms them a few at a time for the norm and multiplies once more for
    the sum.
    """

    def __init__(self, inputs: Tensor, outputs: Tensor, tuner: Tuner) -> None:
        self.inputs, self.outputs, self.tuner = inputs, outputs, tuner
        self._total: Tensor | None = None

    def squared_norms(self, memo: Memo) -> Tensor:
        """By whichever strategy is fastest for these shapes."""
        if self._total is not None:
            return row_squares(self._total)
        strategy = self.tuner.choose(self._key(), self._candidates(), self._trial)
        return self._norms_by(strategy)

    def add_weighted(self, weights: Tensor, out: Tensor, beta: int) -> None:
        """From the kept matrices, or one matrix product over all positions."""
        if self._total is not None:
            out.view(-1).addmv_(self._total.flatten(1).t(), weights, beta=beta)
            return
        inputs, outputs = _scale_smaller(self.inputs, self.outputs, weights.view(-1, 1, 1))
        inputs, outputs = _positions(inputs, outputs)
        add_product(out, outputs, inputs, beta=beta)

    def per_example(self) -> Tensor:
        """(B, O, I)."""
        if self._total is not None:
            return self._total
        return torch.bmm(self.outputs.transpose(1, 2), self.inputs)

    def release(self) -> None:
        """Let the factors go, where the kept matrices stand for them."""
        if self._total is not None:
            self.inputs = self.outputs = self._total.new_empty(0)

    def without(self, rows: Tensor) -> Term:
        """Zero both factors."""
        if self._total is not None:
            return Direct(zeroed(self._total, rows))
        return Sequence(zeroed(self.inputs, rows), zeroed(self.outputs, rows), self.tuner)

    def _norms_by(self, strategy: str) -> Tensor:
        if strategy == "total":
            self._total = self.per_example()
            return row_squares(self._total)
        batch, positions, width = self.inputs.shape
        scratch = positions**2 if strategy == "gram" else width * self.outputs.shape[2]
        step = max(1, SCRATCH_FLOATS // scratch)
        norms = gram_squares if strategy == "gram" else _product_squares
        if step >= batch:
            return norms(self.inputs, self.outputs)
        pairs = zip(self.inputs.split(step), self.outputs.split(step), strict=True)
        return torch.cat([norms(x, g) for x, g in pairs])

    def _key(self) -> str:
        return f"sequence {tuple(self.inputs.shape)} {self.outputs.shape[2]}"

    def _candidates(self) -> tuple[str, ...]:
        matrix = self.inputs.shape[2] * self.outputs.shape[2]
        positions = self.inputs.shape[1]
        return candidates(self.inputs, self.outputs, positions, matrix, kept=KEPT_LINEAR_FLOATS)

    def _trial(self, strategy: str) -> None:
        made = Sequence(twin(self.inputs), twin(self.outputs), self.tuner)
        norms = made._norms_by(strategy)
        made.add_weighted(norms, norms.new_empty(self.outputs.shape[2], self.inputs.shape[2]), 0)


class Lookup:
    """g_b[v] = sum of outputs[b, t] over the t with ids[b, t] = v: an embedding of V rows.

    ids (B, T), outputs (B, T, D).
    """

    def __init__(self, ids: Tensor, outputs: Tensor, vocabulary: int) -> None:
        self.ids, self.outputs, self.vocabulary = ids, outputs, vocabulary

    def squared_norms(self, memo: Memo) -> Tensor:
        """The Gram matrix of the outputs, masked by equality of ids."""
        if self.ids.shape[1] == 1:
            return row_squares(self.outputs, memo)
        same = self.ids.unsqueeze(2) == self.ids.unsqueeze(1)
        gram = torch.bmm(self.outputs, self.outputs.transpose(1, 2))
        slack = _slack(gram.diagonal(dim1=1, dim2=2))
        return gram.mul_(same).flatten(1).sum(1).add_(slack)

    def add_weighted(self, weights: Tensor, out: Tensor, beta: int) -> None:
        """Scatter the scaled outputs."""
        if not beta:
            out.zero_()
        scaled = self.outputs * weights.view(-1, 1, 1)
        out.index_add_(0, self.ids.flatten(), scaled.flatten(0, 1))

    def per_example(self) -> Tensor:
        """(B, V, D)."""
        batch, _, size = self.outputs.shape
        whole = self.outputs.new_zeros(batch, self.vocabulary, size)
        return whole.scatter_add_(1, self.ids.unsqueeze(2).expand(-1, -1, size), self.outputs)

    def release(self) -> None:
        """Nothing to drop."""

    def without(self, rows: Tensor) -> Lookup:
        """Zero the outputs."""
        return Lookup(self.ids, zeroed(self.outputs, rows), self.vocabulary)


def candidates(
    inputs: Tensor, outputs: Tensor, positions: int, matrix: int, *, kept: int
) -> tuple[str, ...]:
    """Strategies worth timing when one example has `positions` and `matrix` parameters.

    Keeping B matrices of more than `kept` numbers must not take more memory than the activations
    do anyway.
    """
    names = ["chunked"]
    if len(inputs) * matrix <= max(kept, inputs.numel() + outputs.numel()):
        names.append("total")
    if positions**2 <= SCRATCH_FLOATS:
        names.append("gram")
    return tuple(names)


def gram_squares(inputs: Tensor, outputs: Tensor) -> Tensor:
    """||sum_t g_t x_t^T||^2 = sum_{s,t} (x_s . x_t)(g_s . g_t); (B, T, *) twice to (B,).

    Rounding leaves an error of about eps sum_t ||x_t||^2 ||g_t||^2 (independent errors of the T^2
    products add in squares). Four times that is added, so that the result isn't too small. Where
    the positions cancel so far that this matters, the example's matrix is formed instead.
    """
    gram = torch.bmm(outputs, outputs.transpose(1, 2))
    other = torch.bmm(inputs, inputs.transpose(1, 2))
    slack = _slack(gram.diagonal(dim1=1, dim2=2) * other.diagonal(dim1=1, dim2=2))
    squares: Tensor = torch.linalg.vecdot(gram.flatten(1), other.flatten(1))
    cancelled = slack > _MOST_SLACK * squares
    if not bool(cancelled.any()):
        return squares.add_(slack)
    squares.add_(slack)
    for index in cancelled.nonzero().flatten().tolist():
        here = slice(index, index + 1)
        norm = _product_squares(inputs[here], outputs[here]).sqrt_()
        # The matrix itself is off by about eps times the norms of what cancelled.
        squares[here] = norm.add_((slack[here] * _EPS).sqrt_()).square_()
    return squares


def _slack(squares: Tensor) -> Tensor:
    slack: Tensor = squares.sum(1).mul_(4 * _EPS)
    return slack


def _product_squares(inputs: Tensor, outputs: Tensor) -> Tensor:
    return row_squares(torch.bmm(outputs.transpose(1, 2), inputs))


def _scale_smaller(inputs: Tensor, outputs: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    if inputs.numel() < outputs.numel():
        return inputs * weights, outputs
    return inputs, outputs * weights


def _positions(inputs: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor]:
    """(B, T, *) twice to (B T, *), in the order that needs no copy: recurrent layers go by time."""
    if not outputs.is_contiguous() and outputs.transpose(0, 1).is_contiguous():
        inputs, outputs = inputs.transpose(0, 1), outputs.transpose(0, 1)
    return inputs.flatten(0, 1), outputs.flatten(0, 1)


def twin(values: Tensor) -> Tensor:
    # Never the data themselves: which strategy wins must not depend on them. The fixed pattern is
    # as fast to multiply as any finite numbers.
    few = values[:TRIED]
    return torch.linspace(-1.0, 1.0, few.numel(), dtype=values.dtype).view(few.shape)


def inner(left: Term, right: Term) -> Tensor:
    """<g_b, h_b> between two terms of one parameter, shape (B,)."""
    if isinstance(left, Lookup) and isinstance(right, Outer | Sequence):
        return _lookup_inner(left, right)
    if isinstance(right, Lookup) and isinstance(left, Outer | Sequence):
        return _lookup_inner(right, left)
    one, two = left.per_example().flatten(1), right.per_example().flatten(1)
    products: Tensor = torch.linalg.vecdot(one, two)
    return products


def _lookup_inner(table: Lookup, linear: Outer | Sequence) -> Tensor:
    """sum_{s,t} outputs[s, ids[t]] (x_s . g_t): no matrix of vocabulary times size is formed."""
    inputs, outputs = linear.inputs, linear.outputs
    if isinstance(linear, Outer):
        inputs, outputs = inputs.unsqueeze(1), outputs.unsqueeze(1)
    picked = outputs.gather(2, table.ids.unsqueeze(1).expand(-1, outputs.shape[1], -1))
    met = torch.bmm(inputs, table.outputs.transpose(1, 2))
    products: Tensor = torch.linalg.vecdot(picked.flatten(1), met.flatten(1))
    return products


def squared_norms(terms: list[Term], memo: Memo) -> Tensor:
    """||sum of the terms||^2 per example for one parameter, used once or several times."""
    if len(terms) == 1:
        norms = terms[0].squared_norms(memo)
        terms[0].release()
        return norms
    total = torch.stack([term.squared_norms(memo) for term in terms]).sum(0)
    size = total.clone()
    for index, left in enumerate(terms):
        for right in terms[index + 1 :]:
            total += 2 * inner(left, right)
    # The terms may cancel; see `gram_squares`.
    found: Tensor = total.clamp_(min=0.0) + 8 * _EPS * size
    return found


def join(terms: list[Term], tuner: Tuner) -> list[Term]:
    """The same sum in fewer terms: uses of one kind become one longer sequence."""
    sequences = [term for term in terms if isinstance(term, Outer | Sequence)]
    lookups = [term for term in terms if isinstance(term, Lookup)]
    rest: list[Term] = [t for t in terms if not isinstance(t, Outer | Sequence | Lookup)]
    if len(rest) > 1:
        rest = [Direct(torch.stack([term.per_example() for term in rest]).sum(0))]
    if len(sequences) > 1:
        rest.append(_concatenate(sequences, tuner))
    else:
        rest.extend(sequences)
    if len(lookups) > 1:
        ids = torch.cat([term.ids for term in lookups], 1)
        outputs = torch.cat([term.outputs for term in lookups], 1)
        rest.append(Lookup(ids, outputs, lookups[0].vocabulary))
    else:
        rest.extend(lookups)
    return rest


def _concatenate(terms: list[Outer | Sequence], tuner: Tuner) -> Sequence:
    inputs = [t.inputs.view(len(t.inputs), -1, t.inputs.shape[-1]) for t in terms]
    outputs = [t.outputs.reshape(len(t.outputs), -1, t.outputs.shape[-1]) for t in terms]
    return Sequence(torch.cat(inputs, 1), torch.cat(outputs, 1), tuner)
