"""How far noise reaches: from each place of a network where it arises to the answers.

To first order noise e in the values of a place moves the answers by J e, J the network's Jacobian
from there on. What is kept is the largest square norm of J's rows, over the answers and over
records (`measured_reach`) or over every input within a bound (`reach_within`). It says nothing of
scales and primes: those of any chain are multiplied with it, see `noise`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from reticent.errors import ConfigError
from reticent.inference.ckks.lowering import Lowered
from reticent.inference.ckks.program import Values

# Records that are looked at, of networks with three matrices or more, and numbers at once.
MOST_RECORDS, _MOST_DEEP, _AT_ONCE = 512, 128, 1 << 22
# How often the copies of a row may be doubled.
_DOUBLED = 3
# The share of the answers' size that a certified error may have at most.
TOLERANCE = 2.0**-6
# The same of the largest answer that any input gets, for lack of records.
_UNSEEN = 2.0**-10
# How many records' decisions rounding may turn: as it should be, and at most.
_WANTED, _MOST = (1, 1e-3), (2, 1e-2)


@dataclass(frozen=True, kw_only=True)
class Gain:
    """Largest squares, by which the variance of noise at one matrix is multiplied.

    `rows`: independent noise in every row of its product; `row`: in one of them. `pairs`, `pair`:
    the same in the values that it multiplies, as each meets each weight; `values`: in those values,
    one noise each for all weights. `coded`: errors of unit variance in weights, for all values;
    `used`: for those only whose weight isn't zero. Where a row stands in several slots, each with
    its own noise, and meets different rows of the next matrix there, it counts for each.
    """

    rows: float
    row: float
    pairs: float
    pair: float
    values: float
    coded: float
    used: float


_NAMES = ("rows", "row", "pairs", "pair", "values", "coded", "used")
_LISTS = ("gains", "copied")


@dataclass(frozen=True, kw_only=True)
class Reach:
    """A gain for each matrix, and in `copied` the first one's where a client makes 2, 4 or 8 copies
    of its rows (empty where that makes no difference); `size`, the largest answer (at least 1);
    `wanted`, the largest error that leaves decisions as they are, and `most`, beyond which answers
    are of no use; `ranges`, the largest value of each matrix's product; `records` they were
    measured on, 0 where none were needed.
    """

    gains: tuple[Gain, ...]
    copied: tuple[Gain, ...]
    ranges: tuple[float, ...]
    size: float
    wanted: float
    most: float
    records: int

    def at(self, copies: int) -> tuple[Gain, ...]:
        """A gain for each matrix, with so many copies of the first one's rows."""
        if copies == 1 or not self.copied:
            return self.gains
        return self.copied[copies.bit_length() - 2], *self.gains[1:]

    def to_json(self) -> dict[str, Any]:
        """A JSON object that `reach_from_json` restores."""
        listed = {name: [vars(gain) for gain in getattr(self, name)] for name in _LISTS}
        return {**vars(self), **listed}


def reach_from_json(record: Mapping[str, Any]) -> Reach:
    """What `to_json` wrote. Raises `LookupError`, `TypeError` or `ValueError` for anything else."""
    gains, copied = (
        tuple(Gain(**{n: float(each[n]) for n in _NAMES}) for each in record[name])
        for name in _LISTS
    )
    ranges = tuple(float(each) for each in record["ranges"])
    size, wanted, most = (float(record[name]) for name in ("size", "wanted", "most"))
    fits = len(ranges) == len(gains) and len(copied) in (0, _DOUBLED)
    if not (size >= 1 and 0 < wanted <= most and fits):
        raise ValueError(f"{size=}, {wanted=}, {most=}, {len(ranges)=}")
    return Reach(
        gains=gains,
        copied=copied,
        ranges=ranges,
        size=size,
        wanted=wanted,
        most=most,
        records=int(record["records"]),
    )


def measured_reach(lowered: Lowered, bound: float, records: Values | None = None) -> Reach:
    """Over `records` (n, ...), of which `MOST_RECORDS` are looked at; a linear network's is known
    without them.

    Raises `ConfigError` for records of another size or none, or for a lack of them: what squares
    make of inputs that nobody has seen tells nothing of those that will come.
    """
    inputs = lowered.matrices[0].weight.shape[1]
    if records is None:
        if lowered.squares:
            raise ConfigError(
                "Expected records, inputs like those that will be sent (n, inputs), for a network "
                f"with {len(lowered.squares)} stages of activations, got records=None: without "
                "them nothing is known of the answers' precision."
            )
        last = lowered.matrices[0]
        size = max(1.0, float((np.abs(last.weight).sum(axis=1) * bound + np.abs(last.bias)).max()))
        return Reach(
            gains=reach_within(lowered, bound),
            copied=(),
            ranges=(size,),
            size=size,
            wanted=_UNSEEN * size,
            most=_UNSEEN * size,
            records=0,
        )
    records = np.asarray(records[:MOST_RECORDS], dtype=np.float64)
    if len(records) == 0 or records[0].size != inputs:
        raise ConfigError(
            f"Expected records of {inputs} numbers, one or more, got shape={records.shape}."
        )
    records = records.reshape(len(records), inputs)
    _, products = _traced(lowered, records)
    answers = products[-1]
    size = max(1.0, float(np.abs(answers).max()))
    most = min(TOLERANCE * size, _deciding(answers, *_MOST))
    gains, copied = _measured(lowered, records)
    return Reach(
        gains=gains,
        copied=copied,
        ranges=tuple(float(np.abs(each).max()) for each in products),
        size=size,
        wanted=min(most, _deciding(answers, *_WANTED)),
        most=most,
        records=len(records),
    )


def reach_within(lowered: Lowered, bound: float) -> tuple[Gain, ...]:
    """Over every input of at most `bound` in each value, and every number of copies: not measured
    but bounded.

    Values are bounded by intervals; J is a product of matrices, whose norms are multiplied but for
    the last two.
    """
    (values, products), made = _intervals(lowered, bound), []
    weights = [matrix.weight for matrix in lowered.matrices]
    slopes = [
        2 * reached + np.abs(square.offset)
        for reached, square in zip(products, lowered.squares, strict=False)
    ]
    norm = rows = row = 1.0
    for index in range(len(weights) - 1, -1, -1):
        squares = weights[index] ** 2
        energy = float((values[index] ** 2).sum())
        made.append(
            Gain(
                rows=rows,
                row=row,
                pairs=rows * float(squares.sum(axis=1).max()),
                pair=row * float(squares.max(initial=0.0)),
                values=norm * float(np.linalg.norm(weights[index], 2)) ** 2,
                coded=rows * energy,
                used=rows * energy,
            )
        )
        if index:
            last = index == len(weights) - 1
            steep = squares * slopes[index - 1] ** 2
            shared = 1 if last else len(squares)
            rows = shared * norm * float(steep.sum(axis=1).max())
            row = shared * norm * float(steep.max() if last else steep.sum(axis=0).max())
            norm *= rows if last else float(np.linalg.norm(np.sqrt(steep), 2)) ** 2
    return tuple(made[::-1])


def largest_hidden(lowered: Lowered, bound: float) -> Values:
    """The largest sizes of the values that the last matrix multiplies, over every input."""
    return _intervals(lowered, bound)[0][-1]


def _intervals(lowered: Lowered, bound: float) -> tuple[list[Values], list[Values]]:
    """The largest size of each value that a matrix multiplies, and of each row of its product."""
    values, products = [np.full(lowered.matrices[0].weight.shape[1], float(bound))], []
    for index, matrix in enumerate(lowered.matrices):
        products.append(np.abs(matrix.weight) @ values[-1] + np.abs(matrix.bias))
        if index < len(lowered.squares):
            values.append(products[-1] * (products[-1] + np.abs(lowered.squares[index].offset)))
    return values, products


def _traced(lowered: Lowered, records: Values) -> tuple[list[Values], list[Values]]:
    """What each matrix multiplies, and its products, for records (n, inputs)."""
    values, products = [records], []
    for index, matrix in enumerate(lowered.matrices):
        products.append(matrix.run(values[-1]))
        if index < len(lowered.squares):
            values.append(lowered.squares[index].run(products[-1]))
    return values, products


def _measured(lowered: Lowered, records: Values) -> tuple[tuple[Gain, ...], tuple[Gain, ...]]:
    deep = len(lowered.matrices) > 2
    records = records[:_MOST_DEEP] if deep else records
    answers = len(lowered.matrices[-1].weight)
    largest = max(matrix.weight.size if deep else len(matrix.weight) for matrix in lowered.matrices)
    at_once = max(1, _AT_ONCE // (answers * largest))
    found: Values | None = None
    for at in range(0, len(records), at_once):
        part = _of(lowered, records[at : at + at_once])
        found = part if found is None else np.maximum(found, part)
    assert found is not None
    gains = [Gain(**dict(zip(_NAMES, map(float, each), strict=True))) for each in found]
    count = len(lowered.matrices)
    return tuple(gains[:count]), tuple(gains[count:])


def _of(lowered: Lowered, records: Values) -> Values:
    """The fields of each matrix's gain and of the first one's with copies (matrices + copies, 7),
    largest over these records and answers.
    """
    values, products = _traced(lowered, records)
    slopes = [
        2 * reached + square.offset
        for reached, square in zip(products, lowered.squares, strict=False)
    ]
    made = []
    jacobian = np.eye(len(lowered.matrices[-1].weight))[None]
    noisy, copied = jacobian**2, list[Values]()
    for index in range(len(lowered.matrices) - 1, -1, -1):
        weight = lowered.matrices[index].weight
        onwards = jacobian @ weight
        made.append(_fields(noisy, weight, values[index], onwards))
        if index:
            steep = slopes[index - 1][:, None] ** 2
            if index < len(lowered.matrices) - 1:
                noisy, *copied = [each * steep for each in _apart(jacobian, weight)]
            jacobian = onwards * slopes[index - 1][:, None]
            if index == len(lowered.matrices) - 1:
                noisy = jacobian**2
    first = lowered.matrices[0].weight
    made = made[::-1] + [_fields(each, first, values[0], onwards) for each in copied]
    return np.array(made)


def _fields(noisy: Values, weight: Values, values: Values, onwards: Values) -> list[float]:
    """A gain's fields; `noisy` (n, answers, rows): squares by which noise reaches answers."""
    squares, energy = weight**2, values**2
    used = energy @ (weight != 0).T.astype(np.float64)
    return [
        noisy.sum(axis=2).max(),
        noisy.max(),
        (noisy @ squares.sum(axis=1)).max(),
        (noisy * squares.max(axis=1, initial=0.0)).max(),
        (onwards**2).sum(axis=2).max(),
        (noisy.sum(axis=2) * energy.sum(axis=1)[:, None]).max(),
        (noisy * used[:, None]).sum(axis=2).max(),
    ]


def _apart(jacobian: Values, weight: Values) -> list[Values]:
    """Squares (n, answers, columns) by which noise in columns reaches answers through `weight`,
    where each of a column's slots has its own: for one copy, 2, 4 and 8.

    Copy p of so many meets the rows that lie p shares of them or more before the column's place,
    and less than another one (see `packing.single`). Of one copy two slots may serve, one for the
    rows up to some place and one for those behind it, wherever that is.
    """
    rows, columns = weight.shape
    padded = 1 << (rows - 1).bit_length()
    before = (np.arange(columns)[None] - np.arange(padded)[:, None]) % padded
    wide = np.concatenate([weight, np.zeros((padded - rows, columns))])
    reaching = np.concatenate([jacobian, np.zeros((*jacobian.shape[:2], padded - rows))], axis=2)
    met = reaching[:, :, before] * wide[before, np.arange(columns)[None]]
    sums = np.cumsum(met, axis=2)
    whole = sums[:, :, -1:]
    made = [(sums**2 + (whole - sums) ** 2).max(axis=2)]
    for doubled in range(1, _DOUBLED + 1):
        copies = min(2**doubled, padded)
        parts = met.reshape(*met.shape[:2], copies, padded // copies, columns)
        made.append((parts.sum(axis=3) ** 2).sum(axis=2))
    return made


def _deciding(answers: Values, few: int, share: float) -> float:
    """The largest error for which answers rounded to twice it decide as they do now: by their sign
    if they are one, else by the largest. So `few` records may turn, or this share of them.
    """
    many = answers.shape[1] > 1
    now = answers.argmax(axis=1) if many else answers[:, 0] > 0
    step = 2.0 ** math.ceil(math.log2(max(1.0, float(np.abs(answers).max()))))
    while step > 2.0**-64:
        rounded = np.round(answers / step) * step
        then = rounded.argmax(axis=1) if many else rounded[:, 0] > 0
        if (then != now).sum() <= max(few, share * len(answers)):
            break
        step /= 2
    return step / 2
