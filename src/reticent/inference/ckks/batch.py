"""Throughput: a whole batch at once, one record per slot, one ciphertext per input number.

No slot meets another: no rotations, no rotation keys, and no partial sums that a mask would have
to hide, since every slot of a reply is a whole answer. Linear layers are exact matrix products of
residues (see `residues`), squares the library's. It is paid with upload: a ciphertext for each
number of a record, however few records there are.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reticent.errors import (
    AuthenticationError,
    BudgetExhaustedError,
    DataError,
    EvidenceError,
    InputError,
    UnsupportedError,
)
from reticent.inference.ckks.chain import Chain, Error, Stage, best, unfitting
from reticent.inference.ckks.client import EncryptedClient
from reticent.inference.ckks.envelope import Envelope, Kind, join, split, unpack
from reticent.inference.ckks.keys import SLACK, load_keys
from reticent.inference.ckks.lowering import Lowered, lower
from reticent.inference.ckks.parameters import MOST_BITS, Parameters
from reticent.inference.ckks.plan import ClientPlan
from reticent.inference.ckks.primitives import Primitives, measured
from reticent.inference.ckks.program import Program
from reticent.inference.ckks.residues import BLOCK, Residues, Shape, combine

# The share of inputs that rows of one product have in common.
_ALIKE = 0.9


@dataclass(frozen=True, kw_only=True)
class BatchPlan:
    """A program laid out for batches of up to `records` records; bytes and times are per batch."""

    chain: Chain
    lowered: Lowered = field(repr=False)
    bound: float
    upload_bytes: int
    reply_bytes: int
    key_bytes: int
    server_ms: float
    places: int

    @property
    def parameters(self) -> Parameters:
        """The ring and its primes."""
        return self.chain.parameters

    @property
    def records(self) -> int:
        """Records in a full batch."""
        return self.parameters.slots

    @cached_property
    def digest(self) -> bytes:
        """16 bytes that client and server must agree on."""
        shape = [matrix.weight.shape for matrix in self.lowered.matrices]
        record = ["batch", vars(self.parameters), self.bound, shape[0][1], shape[-1][0]]
        return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).digest()[:16]

    def for_client(self) -> ClientPlan:
        """The part that a client is handed."""
        slots, outputs = self.parameters.slots, len(self.lowered.matrices[-1].weight)
        return ClientPlan(
            parameters=self.parameters,
            columns=np.zeros((1, slots), dtype=np.int64),
            outputs=np.arange(outputs, dtype=np.int64),
            steps=(),
            inputs=self.lowered.matrices[0].weight.shape[1],
            bound=self.bound,
            digest=self.digest,
            places=self.places,
        )

    def describe(self) -> str:
        """The figures in words."""
        p, rate = self.parameters, self.records / self.server_ms * 1000
        return (
            f"levels {p.levels}, ring {p.degree}, modulus {p.bits} bits, 128-bit security\n"
            f"batch of {self.records}: 0 rotations, keys {self.key_bytes / 1e6:.1f} MB, upload "
            f"{self.upload_bytes / 1e6:.0f} MB ({self.upload_bytes / self.records / 1e3:.0f} kB a "
            f"record), reply {self.reply_bytes / 1e6:.1f} MB, about {self.server_ms / 1000:.1f} s "
            f"of the server's CPU: {rate:.0f} records a second when full"
        )


def plan_batch(program: Program, *, primitives: Primitives | None = None) -> BatchPlan:
    """The batch layout of `program`. Raises `UnsupportedError` for what no ring holds."""
    lowered = lower(program)
    chain, error = _chain(lowered, program.bound)
    parameters = chain.parameters
    inputs, outputs = lowered.matrices[0].weight.shape[1], len(lowered.matrices[-1].weight)
    costs = primitives or measured(parameters.degree, parameters.levels)
    return BatchPlan(
        chain=chain,
        lowered=lowered,
        bound=program.bound,
        upload_bytes=inputs * parameters.ciphertext_bytes,
        reply_bytes=outputs * 2 * parameters.degree * 8,
        key_bytes=parameters.key_bytes(1),
        server_ms=_predicted(lowered, chain, costs),
        places=error.places,
    )


def _chain(lowered: Lowered, bound: float) -> tuple[Chain, Error]:
    """The cheapest chain that is precise enough, in the smallest ring."""
    for degree in MOST_BITS:
        found = best(lowered, None, degree, bound=bound)
        if found is not None:
            return found
    raise UnsupportedError(unfitting(lowered))


class BatchClient(EncryptedClient):
    """Encrypts batches and decrypts their replies; see `EncryptedClient` for keys and rounding.

    A batch counts as one query of its key: each slot's decryption tells as much as one reply's.
    """

    def encrypt_batch(self, x: NDArray[Any]) -> Iterator[bytes]:
        """One message per input number of records x (n, inputs), n up to the slots.

        Raises `InputError` for another size, NaN, or values beyond the checked bound, before the
        first message.
        """
        flat = np.asarray(x, dtype=np.float64).reshape(len(x), -1)
        slots = self._plan.parameters.slots
        if flat.shape[1] != self._plan.inputs or not 0 < len(flat) <= slots:
            raise InputError(
                f"Expected 1 to {slots} records of {self._plan.inputs} numbers, got {flat.shape}."
            )
        if not np.all(np.abs(flat) <= self._plan.bound):
            raise InputError(
                f"Expected finite inputs of at most {self._plan.bound:g} in size, for which the "
                f"network was checked, got {np.abs(flat).max():g}. Scale as in training."
            )
        if self.queries >= self._most_queries:
            raise BudgetExhaustedError(
                f"These keys have answered most_queries={self._most_queries}. Call rotate() and "
                "upload the new public keys."
            )
        self.queries += 1
        return (self._column(column) for column in flat.T)

    def _column(self, column: NDArray[np.float64]) -> bytes:
        values = np.zeros(self._plan.parameters.slots)
        values[: len(column)] = column
        return self._keys.request([values], scale=2.0**self._plan.parameters.scale_bits)

    def decrypt_batch(self, replies: Iterable[bytes], n: int) -> NDArray[np.float64]:
        """Answers (n, outputs), rounded. Raises `EvidenceError` where they can't be any."""
        columns = [self._keys.opened(reply)[:n] for reply in replies]
        if len(columns) != len(self._plan.outputs):
            raise EvidenceError(
                f"Expected {len(self._plan.outputs)} replies, got {len(columns)}. Ask again."
            )
        answer = np.stack(columns, axis=1)
        if not np.all(np.abs(answer) < 2.0**20):
            raise EvidenceError(
                f"The replies decrypt to {np.abs(answer).max():.3g}: no answers of this network."
            )
        step = math.ldexp(1.0, -self._precision)
        rounded: NDArray[np.float64] = np.round(answer / step) * step
        return rounded


class BatchServer:
    """Answers encrypted batches of one client, whose public keys it was given."""

    def __init__(self, plan: BatchPlan, keys: bytes) -> None:
        self._plan = plan
        self._key_id, self._engine = load_keys(plan.parameters, keys, plan=plan.digest, rotations=1)

    def answer(self, requests: Iterable[bytes]) -> Iterator[bytes]:
        """One reply per output. Raises `DataError`, `BundleError`, `AuthenticationError`."""
        engine, lowered = self._engine, self._plan.lowered
        values = self._read(requests)
        for index, (matrix, stage) in enumerate(
            zip(lowered.matrices, self._plan.chain.stages, strict=True)
        ):
            made = self._linear(values, matrix.weight, matrix.bias, stage)
            values.clear()
            if index < len(lowered.squares):
                made = [
                    self._squared(each, float(offset))
                    for each, offset in zip(made, lowered.squares[index].offset, strict=True)
                ]
            values += made
        for each in values:
            content = join([engine.save(engine.rerandomise(each))])
            yield Envelope(
                kind=Kind.REPLY, plan=self._plan.digest, keys=self._key_id, content=content
            ).pack()

    def _read(self, requests: Iterable[bytes]) -> list[Any]:
        parameters = self._plan.parameters
        size = parameters.ciphertext_bytes + SLACK
        wanted = self._plan.lowered.matrices[0].weight.shape[1]
        values: list[Any] = []
        for request in requests:
            envelope = unpack(request, kind=Kind.REQUEST, plan=self._plan.digest, most=size + 8)
            if envelope.keys != self._key_id:
                raise AuthenticationError(
                    f"Expected a batch under keys {self._key_id.hex()[:12]}, got "
                    f"{envelope.keys.hex()[:12]}. Upload the evaluation keys of this client."
                )
            made = self._engine.load(split(envelope.content, count=1, most=size)[0])
            level, scale = self._engine.level(made), self._engine.scale(made)
            if level != parameters.levels or scale != 2.0**parameters.scale_bits:
                raise DataError(
                    f"Expected a ciphertext at level={parameters.levels} and scale=2^"
                    f"{parameters.scale_bits}, got {level=} and {scale=:g}. Encrypt with the "
                    "client."
                )
            values.append(made)
            if len(values) > wanted:
                break
        if len(values) != wanted:
            raise DataError(f"Expected {wanted} ciphertexts, one per input, got {len(values)}.")
        return values

    def _linear(
        self,
        values: list[Any],
        weight: NDArray[np.float64],
        bias: NDArray[np.float64],
        stage: Stage,
    ) -> list[Any]:
        engine, level = self._engine, stage.level
        incoming = engine.scale(values[0])
        scale = 2.0**stage.out_bits * (engine.prime(level) if stage.divides else 1) / incoming
        shape = Shape(
            degree=self._plan.parameters.degree,
            primes=tuple(engine.prime(at) for at in range(level + 1)),
        )
        whole = np.rint(weight * scale).astype(np.int64)
        head, residues = self._residues(values, shape, incoming * scale)
        made: list[tuple[int, Any]] = []
        for rows, columns in _groups(whole):
            if not len(columns):
                # A product with nothing but zeros would be no encryption at all.
                made += [
                    (int(row), engine.zero(scale=incoming * scale, level=level)) for row in rows
                ]
                continue
            chosen = [residues[column] for column in columns]
            found = combine(whole[np.ix_(rows, columns)], chosen, shape)
            for row, out in zip(rows, found, strict=True):
                made.append((int(row), self._engine.load(head + out.tobytes())))
        ordered = [each for _, each in sorted(made, key=lambda pair: pair[0])]
        return [
            self._shifted(engine.rescale(each) if stage.divides else each, float(constant))
            for each, constant in zip(ordered, bias, strict=True)
        ]

    def _residues(
        self, values: list[Any], shape: Shape, scale: float
    ) -> tuple[bytes, list[Residues]]:
        """The header of results at `scale`, and each value's residues."""
        found = [shape.read(self._engine.save(value))[1] for value in values]
        sample = values[0]
        before = sample.scale()
        sample.scale(scale)
        head, _ = shape.read(self._engine.save(sample))
        sample.scale(before)
        return head, found

    def _shifted(self, value: Any, constant: float) -> Any:
        engine = self._engine
        if not constant:
            return value
        numbers = np.full(self._plan.parameters.slots, constant)
        plain = engine.encode(numbers, scale=engine.scale(value), level=engine.level(value))
        return engine.add_plain(value, plain)

    def _squared(self, value: Any, offset: float) -> Any:
        return self._engine.multiply(value, self._shifted(value, offset))


def _groups(weights: NDArray[np.int64]) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Rows that use nearly the same inputs, with all of those: a convolution's filters at a place.

    Rows of zeros are a group of their own, without inputs.
    """
    found: list[tuple[list[int], NDArray[np.bool_]]] = []
    for row, used in enumerate(weights != 0):
        for rows, inputs in found:
            common = int((used & inputs).sum())
            if common >= _ALIKE * max(used.sum(), inputs.sum()):
                rows.append(row)
                inputs |= used
                break
        else:
            found.append(([row], used.copy()))
    return [(np.array(rows), np.flatnonzero(inputs)) for rows, inputs in found]


def _predicted(lowered: Lowered, chain: Chain, costs: Primitives) -> float:
    """Milliseconds for a batch: a timed sample of the products of residues, squares, the rest."""
    total, parameters = 0.0, chain.parameters
    for index, (matrix, stage) in enumerate(zip(lowered.matrices, chain.stages, strict=True)):
        level, (outputs, inputs) = stage.level, matrix.weight.shape
        total += _sampled(matrix.weight, stage, parameters)
        # Read and written once more than loaded: the residues leave the library and come back.
        total += costs.at("load", level) * (inputs + outputs)
        total += (costs.at("rescale", level) * stage.divides + costs.at("mask", level) / 2) * outputs
        if index < len(lowered.squares):
            total += costs.at("multiply", stage.left) * outputs
    load = costs.at("load", parameters.levels) * lowered.matrices[0].weight.shape[1]
    return total + load + costs.at("mask", 0) * len(lowered.matrices[-1].weight)


def _sampled(weight: NDArray[np.float64], stage: Stage, parameters: Parameters) -> float:
    """Milliseconds of `combine` for a matrix: its largest group on a block of each prime."""
    whole = np.rint(weight * 2.0**stage.weight_bits).astype(np.int64)
    groups = [group for group in _groups(whole) if len(group[1])]
    if not groups:
        return 0.0
    rows, columns = max(groups, key=lambda group: len(group[0]) * len(group[1]))
    rng, spent = np.random.default_rng(0), 0.0
    for bits in parameters.prime_bits[: stage.level + 1]:
        shape = Shape(degree=BLOCK, primes=(2**bits - 1,))
        values = list(rng.integers(2**bits - 1, size=(len(columns), 2, 1, BLOCK), dtype=np.uint64))
        start = time.process_time()
        combine(whole[np.ix_(rows, columns)], values, shape)
        spent += time.process_time() - start
    share = sum(len(r) * len(c) for r, c in groups) / (len(rows) * len(columns))
    return 1000 * spent * share * parameters.degree / BLOCK
