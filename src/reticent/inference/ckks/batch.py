"""Throughput: a whole batch at once, one record per slot, one ciphertext per input number.

No slot meets another: no rotations, no rotation keys, and no partial sums that a mask would have
to hide, since every slot of a reply is a whole answer. Linear layers are exact matrix products of
residues (see `residues`), squares the library's. It is paid with upload: a ciphertext for each
number of a record, however few records there are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reticent.errors import (
    AuthenticationError,
    BudgetExhaustedError,
    DataError,
    EvidenceError,
    InputError,
)
from reticent.inference.ckks.batch_plan import BatchPlan
from reticent.inference.ckks.chain import Stage
from reticent.inference.ckks.client import EncryptedClient
from reticent.inference.ckks.envelope import Envelope, Kind, join, split, unpack
from reticent.inference.ckks.flooding import flooded
from reticent.inference.ckks.keys import SLACK, load_keys
from reticent.inference.ckks.residues import Residues, Shape, combine, groups
from reticent.inference.ckks.rows import Matrix
from reticent.random import SecureRandom


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
        columns = [self._opened(reply)[:n] for reply in replies]
        if len(columns) != len(self._plan.outputs):
            raise EvidenceError(
                f"Expected {len(self._plan.outputs)} replies, got {len(columns)}. Ask again."
            )
        return self._rounded(np.stack(columns, axis=1))


class BatchServer:
    """Answers encrypted batches of one client, whose public keys it was given."""

    def __init__(self, plan: BatchPlan, keys: bytes) -> None:
        self._plan = plan
        self._key_id, self._engine = load_keys(plan.parameters, keys, plan=plan.digest, steps=())
        self._random = SecureRandom()

    def answer(self, requests: Iterable[bytes]) -> Iterator[bytes]:
        """One reply per output. Raises `DataError`, `BundleError`, `AuthenticationError`."""
        engine, lowered = self._engine, self._plan.lowered
        sample, residues = self._read(requests)
        values: list[Any] = []
        for index, (matrix, stage) in enumerate(
            zip(lowered.matrices, self._plan.chain.stages, strict=True)
        ):
            if index:
                sample, residues = values[0], self._residues(values)
            values = self._linear(sample, residues, matrix, stage)
            if index < len(lowered.squares):
                offsets = lowered.squares[index].offset
                for place, offset in enumerate(offsets):
                    values[place] = self._squared(values[place], float(offset))
        for each in values:
            content = join([engine.save(self._hidden(each))])
            yield Envelope(
                kind=Kind.REPLY, plan=self._plan.digest, keys=self._key_id, content=content
            ).pack()

    def _hidden(self, made: Any) -> Any:
        if self._plan.flood is None:
            return self._engine.rerandomise(made)
        every = np.ones(self._plan.parameters.slots, dtype=np.bool_)
        return flooded(self._engine, made, every, self._plan.flood, self._random)

    def _read(self, requests: Iterable[bytes]) -> tuple[Any, list[Residues]]:
        """One of the inputs, and the residues of all: views of the messages where these hold them
        bare, for a batch fills hundreds of megabytes.
        """
        parameters = self._plan.parameters
        size = parameters.ciphertext_bytes + SLACK
        wanted = self._plan.lowered.matrices[0].weight.shape[1]
        shape, residues = self._shape(parameters.levels), list[Residues]()
        made, head = None, b""
        for request in requests:
            envelope = unpack(request, kind=Kind.REQUEST, plan=self._plan.digest, most=size + 8)
            if envelope.keys != self._key_id:
                raise AuthenticationError(
                    f"Expected a batch under keys {self._key_id.hex()[:12]}, got "
                    f"{envelope.keys.hex()[:12]}. Upload the evaluation keys of this client."
                )
            part = split(envelope.content, count=1, most=size)[0]
            made = self._engine.load(part)
            level, scale = self._engine.level(made), self._engine.scale(made)
            if level != parameters.levels or scale != 2.0**parameters.scale_bits:
                raise DataError(
                    f"Expected a ciphertext at level={parameters.levels} and scale=2^"
                    f"{parameters.scale_bits}, got {level=} and {scale=:g}. Encrypt with the "
                    "client."
                )
            head = head or shape.read(self._engine.save(made))[0]
            is_bare = part.startswith(head) and len(part) == len(head) + 8 * shape.values
            whole = memoryview(envelope.content)[-len(part) :]
            residues.append(shape.read(whole if is_bare else self._engine.save(made))[1])
            if len(residues) > wanted:
                break
        if len(residues) != wanted:
            raise DataError(f"Expected {wanted} ciphertexts, one per input, got {len(residues)}.")
        return made, residues

    def _shape(self, level: int) -> Shape:
        primes = tuple(self._engine.prime(at) for at in range(level + 1))
        return Shape(degree=self._plan.parameters.degree, primes=primes)

    def _linear(
        self, sample: Any, residues: list[Residues], matrix: Matrix, stage: Stage
    ) -> list[Any]:
        """A matrix times ciphertexts, of which `sample` is one; `residues` is emptied."""
        engine, level = self._engine, stage.level
        incoming = engine.scale(sample)
        primes = [float(engine.prime(at)) for at in range(level, stage.left, -1)]
        scale = 2.0**stage.out_bits * math.prod(primes) / incoming
        shape = self._shape(level)
        whole = np.rint(matrix.weight * scale).astype(np.int64)
        sample.scale(incoming * scale)
        head, _ = shape.read(engine.save(sample))
        made: list[tuple[int, Any]] = []
        for rows, columns in groups(whole):
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
        residues.clear()
        ordered = [each for _, each in sorted(made, key=lambda pair: pair[0])]
        return [
            self._shifted(self._divided(each, stage), float(constant))
            for each, constant in zip(ordered, matrix.bias, strict=True)
        ]

    def _divided(self, value: Any, stage: Stage) -> Any:
        for _ in range(stage.divides):
            value = self._engine.rescale(value)
        return value

    def _residues(self, values: list[Any]) -> list[Residues]:
        """Each value's residues; `values` is emptied."""
        shape, found = self._shape(self._engine.level(values[0])), []
        values.reverse()
        while values:  # each is let go of once it is read
            found.append(shape.read(self._engine.save(values.pop()))[1])
        return found

    def _shifted(self, value: Any, constant: float) -> Any:
        engine = self._engine
        if not constant:
            return value
        numbers = np.full(self._plan.parameters.slots, constant)
        plain = engine.encode(numbers, scale=engine.scale(value), level=engine.level(value))
        return engine.add_plain(value, plain)

    def _squared(self, value: Any, offset: float) -> Any:
        return self._engine.multiply(value, self._shifted(value, offset))
