"""Where numbers lie in a ciphertext's slots, and which rotations bring weight and input together.

A product of matrix and vector is, for each pair (row, column), one product of numbers. Slot s after
a rotation by r holds column `columns[s + r]`; a plaintext of weights multiplies all slots at once;
rotate-and-add sums over the slots of one row. Diagonals with extended rows are Halevi and Shoup
2014's; baby and giant steps are theirs of 2018. That the client lays copies out costs nothing:
the server's rotations are what is dear. `diagonals` proves that each pair is met exactly once.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from reticent.errors import UnsupportedError
from reticent.inference.ckks.program import Values

Indices = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One matrix in slots.

    `columns` (ciphertexts, slots): which input a slot holds, -1 for none. `rows` (ciphertexts,
    slots): which output its product counts for. `rotations` is how many neighbouring rotations are
    needed, in steps of `baby`. `sums` are the steps of rotate-and-add over `span` slots, after
    which everything repeats. Afterwards slot s holds output `outputs[s]`, or partial sums where
    that is -1. Outputs stand in `copies`, each shifted against the one before as the next matrix
    needs them.
    """

    columns: Indices = field(repr=False)
    rows: Indices = field(repr=False)
    rotations: int
    baby: int
    sums: tuple[int, ...]
    outputs: Indices = field(repr=False)
    span: int
    copies: int = 1
    used: tuple[int, ...] | None = None

    @property
    def turns(self) -> tuple[int, ...]:
        """The rotations of the input that meet a weight; all unless `thinned`."""
        return tuple(range(self.rotations)) if self.used is None else self.used

    @property
    def babies(self) -> tuple[int, ...]:
        """The small steps, 0 among them if it is one."""
        return tuple(sorted({turn % self.baby for turn in self.turns}))

    @property
    def giants(self) -> tuple[int, ...]:
        """The large steps, 0 among them if it is one."""
        return tuple(sorted({turn - turn % self.baby for turn in self.turns}))

    @property
    def moves(self) -> tuple[int, ...]:
        """The rotations between giant steps, from the last down to 0."""
        return tuple(to - at for at, to in itertools.pairwise((0, *self.giants)) if to > at)

    @property
    def steps(self) -> set[int]:
        """The rotations that keys are needed for."""
        return {*self.babies, *self.moves, *self.sums} - {0}

    @property
    def count(self) -> int:
        """Rotations that one evaluation makes."""
        return _turned(self.turns, self.baby) + len(self.sums)


def single(outputs: int, inputs: int, slots: int) -> Layer:
    """One ciphertext of pre-shifted copies: few rotations, the smallest upload.

    Block p of `period` slots holds the input from place p * shift on. A rotation that runs over a
    block's end meets the next block, whose shift is one step further on, so that over all blocks
    the wrapped columns are a permutation of those that would have been met.
    """
    period, rows = _period(outputs, inputs, slots)
    blocks = min(slots // period, rows)
    shift = rows // blocks
    place = np.arange(slots)
    columns = (place % period + (place // period % blocks) * shift) % period
    return Layer(
        columns=_limited(columns, inputs)[None],
        rows=_limited(place % rows, outputs)[None],
        rotations=shift,
        baby=_baby(shift),
        sums=_doublings(rows, period * blocks),
        outputs=_limited(place % rows, outputs),
        span=period * blocks,
    )


def several(weight: Values, slots: int, *, copies: int = 1, after: int = 1) -> Layer:
    """Many ciphertexts, no rotation before the sum; each row sends only the columns it uses.

    A convolution's rows use a few columns each: this is the client-side im2col. With `copies`
    the client computes for the next matrix, of `after` outputs: each row is made `copies` times,
    shifted so that the next matrix rotates so many times less (see `single`).
    """
    outputs = len(weight)
    rows, shift = _power_of_two(outputs), _power_of_two(after) // copies
    fits = copies == 1 or (shift >= 1 and _power_of_two(after) <= rows)
    if rows * copies > slots or not fits:
        raise UnsupportedError(
            f"Expected at most {slots} slots for {copies} copies of {outputs} outputs, and at most "
            f"as many outputs of the next matrix, got {after}."
        )
    used = [np.flatnonzero(row) for row in weight]
    most = max(1, max(len(columns) for columns in used))
    depth = min(slots // (rows * copies), _power_of_two(most))
    table = np.full((rows, -(-most // depth) * depth), -1, dtype=np.int64)
    for row, columns in enumerate(used):
        table[row, : len(columns)] = columns
    # Slot (k * copies + p) * rows + i of ciphertext t holds the (t * depth + k)-th column of the
    # row that copy p has in place i.
    place = np.arange(slots)
    here = (place % rows + place // rows % copies * shift) % rows
    packed = table.reshape(rows, -1, depth)[here, :, place // (rows * copies) % depth].T
    return Layer(
        columns=packed,
        rows=np.broadcast_to(_limited(here, outputs), packed.shape).copy(),
        rotations=1,
        baby=1,
        sums=_doublings(rows * copies, rows * copies * depth),
        outputs=_limited(here, outputs),
        span=rows * copies * depth,
        copies=copies,
    )


def hidden(outputs: int, before: Layer) -> Layer:
    """A matrix on the repeated outputs of `before`; its own outputs repeat as well."""
    slots = before.outputs.size
    period, rows = _period(outputs, period_of(before), slots)
    place = np.arange(slots)
    turns = rows // before.copies
    return Layer(
        columns=before.outputs[None],
        rows=_limited(place % rows, outputs)[None],
        rotations=turns,
        baby=_baby(turns),
        sums=_doublings(rows, period * before.copies),
        outputs=_limited(place % rows, outputs),
        span=period * before.copies,
    )


def last(outputs: int, columns: Indices, period: int) -> Layer | None:
    """A matrix with one block of slots per output: no rotation but the sum's.

    `columns` repeat after `period`. None where there are fewer blocks than outputs.
    """
    slots = columns.size
    if outputs > slots // period:
        return None
    place = np.arange(slots)
    made = np.full(slots, -1, dtype=np.int64)
    made[np.arange(outputs) * period] = np.arange(outputs)
    return Layer(
        columns=columns[None],
        rows=_limited(place // period, outputs)[None],
        rotations=1,
        baby=1,
        sums=_doublings(1, period),
        outputs=made,
        span=slots,
    )


def repeated(inputs: int, slots: int) -> tuple[Indices, int]:
    """Columns that hold the input over and over, and the period."""
    period = _power_of_two(inputs)
    if period > slots:
        raise UnsupportedError(f"Expected at most {slots} inputs in one ring, got {inputs}.")
    return _limited(np.arange(slots) % period, inputs), period


def diagonals(weight: Values, layer: Layer) -> list[list[Values]]:
    """For each ciphertext and rotation, the weights (slots,) that its slots are multiplied by.

    Raises `AssertionError` unless every copy meets every pair with a weight; one met twice counts
    once.
    """
    outputs, inputs = weight.shape
    met = np.zeros(layer.copies * outputs * inputs, dtype=bool)
    copy = np.arange(layer.span) // period_of(layer) % layer.copies * outputs
    made = []
    for columns, rows in zip(
        layer.columns[:, : layer.span], layer.rows[:, : layer.span], strict=True
    ):
        each = []
        for rotation in range(layer.rotations):
            turned = np.roll(columns, -rotation)
            valid = np.flatnonzero((turned >= 0) & (rows >= 0))
            pairs = (copy + rows)[valid] * inputs + turned[valid]
            _, first = np.unique(pairs, return_index=True)
            fresh = first[~met[pairs[first]]]
            met[pairs[fresh]] = True
            weights = np.zeros(layer.span)
            weights[valid[fresh]] = weight.reshape(-1)[pairs[fresh] % weight.size]
            each.append(np.tile(weights, layer.outputs.size // layer.span))
        made.append(each)
    if not met.reshape(layer.copies, -1)[:, np.flatnonzero(weight)].all():
        raise AssertionError("The packing misses a weight.")
    return made


def fewest_rotations(weight: Values, ciphertexts: int, slots: int) -> int:
    """A lower bound for a matrix on so many ciphertexts, however they are laid out.

    A product with a plaintext multiplies `slots` pairs at most, so there are as many products as
    pairs need; b rotations of the input and g of sums give (ciphertexts + b) (1 + g) of them. What
    a row's columns leave in several slots is summed by doublings.
    """
    columns = int((weight != 0).sum(axis=1).max(initial=1))
    least = max(1, -(-int(np.count_nonzero(weight)) // slots))
    bounds: list[int] = []
    for products in range(least, max(least, columns) + 1):
        doublings = (-(-columns // products) - 1).bit_length()
        turns = min(
            max(0, -(-products // (1 + giants)) - ciphertexts) + giants
            for giants in range(math.isqrt(products) + 1)
        )
        bounds.append(turns + doublings)
        if not doublings:
            break
    return min(bounds)


def thinned(weight: Values, layer: Layer) -> Layer:
    """The layer without the rotations that meet no weight: many where the matrix is sparse."""
    if layer.rotations == 1 or np.count_nonzero(weight) > weight.size / 4:
        return layer
    met = np.any([[each.any() for each in row] for row in diagonals(weight, layer)], axis=0)
    used = tuple(int(turn) for turn in np.flatnonzero(met)) or (0,)
    baby = min(range(1, layer.rotations + 1), key=lambda size: (_turned(used, size), size))
    return replace(layer, used=used, baby=baby)


def _turned(turns: tuple[int, ...], baby: int) -> int:
    small, large = {turn % baby for turn in turns}, {turn // baby for turn in turns}
    return len(small - {0}) + len(large - {0})


def _period(outputs: int, inputs: int, slots: int) -> tuple[int, int]:
    rows = _power_of_two(outputs)
    period = max(_power_of_two(inputs), rows)
    if period > slots:
        raise UnsupportedError(
            f"Expected at most {slots} values in one ring, got {max(outputs, inputs)}. "
            "Encrypt a smaller part of the network (sealed split)."
        )
    return period, rows


def period_of(layer: Layer) -> int:
    """The period of a layer's outputs."""
    rows = int(layer.outputs.max()) + 1
    return _power_of_two(rows)


def _limited(indices: Indices, limit: int) -> Indices:
    return np.where(indices < limit, indices, -1).astype(np.int64)


def _doublings(start: int, stop: int) -> tuple[int, ...]:
    steps = []
    while start < stop:
        steps.append(start)
        start *= 2
    return tuple(steps)


def _baby(rotations: int) -> int:
    return min(range(1, rotations + 1), key=lambda b: (b + -(-rotations // b), b))


def _power_of_two(count: int) -> int:
    return 1 << (count - 1).bit_length()
