"""The plan of a batch: ring, scales and costs, settled and shown before anything is encrypted."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from reticent.errors import UnsupportedError
from reticent.inference.ckks.chain import Chain, Stage
from reticent.inference.ckks.choice import best, flooded_batch, unfitting
from reticent.inference.ckks.flooding import Flood
from reticent.inference.ckks.layouts import MOST_BYTES
from reticent.inference.ckks.lowering import Lowered, lower
from reticent.inference.ckks.noise import places_for
from reticent.inference.ckks.parameters import MOST_BITS, Parameters
from reticent.inference.ckks.plan import ClientPlan
from reticent.inference.ckks.primitives import Primitives, measured
from reticent.inference.ckks.program import Program, Values
from reticent.inference.ckks.reach import Reach, measured_reach, reach_within
from reticent.inference.ckks.residues import BLOCK, Shape, combine, groups


@dataclass(frozen=True, kw_only=True)
class BatchPlan:
    """A program laid out for batches of up to `records` records; bytes and times are per batch."""

    chain: Chain
    lowered: Lowered = field(repr=False)
    bound: float
    upload_bytes: int
    reply_bytes: int
    key_bytes: int
    memory_bytes: int
    server_ms: float
    places: int
    flood: Flood | None = None

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
            reply_primes=self.chain.stages[-1].left + 1,
            reply_bits=self.chain.stages[-1].out_bits,
        )

    def describe(self) -> str:
        """The figures in words."""
        p, rate = self.parameters, self.records / self.server_ms * 1000
        return (
            f"levels {p.levels}, ring {p.degree}, modulus {p.bits} bits, 128-bit security\n"
            f"batch of {self.records}: 0 rotations, keys {self.key_bytes / 1e6:.1f} MB, upload "
            f"{self.upload_bytes / 1e6:.0f} MB ({self.upload_bytes / self.records / 1e3:.0f} kB a "
            f"record), reply {self.reply_bytes / 1e6:.1f} MB, {self.memory_bytes / 1e6:.0f} MB of "
            f"memory, about {self.server_ms / 1000:.1f} s "
            f"of the server's CPU: {rate:.0f} records a second when full, answers right to "
            f"{self.places} binary places; "
            + ("noise in answers not flooded" if self.flood is None else self.flood.describe())
        )


def plan_batch(
    program: Program,
    *,
    records: Values | None = None,
    primitives: Primitives | None = None,
    flooding_bits: int = 0,
) -> BatchPlan:
    """The batch layout of `program`, whose answers' precision is certified for inputs like
    `records` (n, inputs); a linear program can do without. For `flooding_bits` see `flooding`.
    Raises `UnsupportedError` for what no ring holds, `ConfigError` for a lack of records.
    """
    lowered = lower(program)
    reach = measured_reach(lowered, program.bound, records)
    chain, error, flood = _chain(lowered, reach, program.bound, flooding_bits)
    parameters = chain.parameters
    inputs, outputs = lowered.matrices[0].weight.shape[1], len(lowered.matrices[-1].weight)
    memory = _memory(lowered, chain)
    if memory > MOST_BYTES:
        raise UnsupportedError(
            f"Never on one machine: a batch's ciphertexts take {memory / 1e9:.1f} GB, at most "
            f"{MOST_BYTES / 1e9:.0f} GB are held. Use narrower layers, or answer one record at a "
            "time."
        )
    costs = primitives or measured(parameters.degree, parameters.levels)
    return BatchPlan(
        chain=chain,
        lowered=lowered,
        bound=program.bound,
        upload_bytes=inputs * parameters.ciphertext_bytes,
        reply_bytes=outputs * 2 * parameters.degree * 8 * (chain.stages[-1].left + 1),
        key_bytes=parameters.key_bytes(0),
        memory_bytes=memory,
        server_ms=_predicted(lowered, chain, costs),
        places=places_for(error),
        flood=flood,
    )


def _memory(lowered: Lowered, chain: Chain) -> int:
    """Bytes at the fullest: a layer's input, its residues while read, its output and a copy."""
    most = 0
    for matrix, stage in zip(lowered.matrices, chain.stages, strict=True):
        outputs, inputs = matrix.weight.shape
        each = 2 * chain.parameters.degree * (stage.level + 1) * 8
        most = max(most, each * (inputs + 2 * outputs), each * 2 * inputs)
    return most


def _chain(
    lowered: Lowered, reach: Reach, bound: float, flooding_bits: int
) -> tuple[Chain, float, Flood | None]:
    """The cheapest chain that is precise enough, in the smallest ring."""
    within = reach_within(lowered, bound) if flooding_bits else ()
    for degree in MOST_BITS:
        if flooding_bits:
            made = flooded_batch(lowered, degree, reach=reach, within=within, bits=flooding_bits)
            if made is not None:
                return made
            continue
        found = best(lowered, None, degree, reach=reach)
        if found is not None:
            return *found, None
    raise UnsupportedError(unfitting(lowered, flooding_bits))


def _predicted(lowered: Lowered, chain: Chain, costs: Primitives) -> float:
    """Milliseconds for a batch: a timed sample of the products of residues, squares, the rest."""
    total, parameters = 0.0, chain.parameters
    for index, (matrix, stage) in enumerate(zip(lowered.matrices, chain.stages, strict=True)):
        level, (outputs, inputs) = stage.level, matrix.weight.shape
        total += _sampled(matrix.weight, stage, parameters)
        # Read and written once more than loaded: the residues leave the library and come back.
        total += costs.at("load", level) * (inputs + outputs)
        total += (
            costs.at("rescale", level) * stage.divides + costs.at("mask", level) / 2
        ) * outputs
        if index < len(lowered.squares):
            total += costs.at("multiply", stage.left) * outputs
    load = costs.at("load", parameters.levels) * lowered.matrices[0].weight.shape[1]
    return float(
        total + load + costs.at("mask", chain.stages[-1].left) * len(lowered.matrices[-1].weight)
    )


def _sampled(weight: NDArray[np.float64], stage: Stage, parameters: Parameters) -> float:
    """Milliseconds of `combine` for a matrix: its largest group on a block of each prime."""
    whole = np.rint(weight * 2.0**stage.weight_bits).astype(np.int64)
    found = [group for group in groups(whole) if len(group[1])]
    if not found:
        return 0.0
    rows, columns = max(found, key=lambda group: len(group[0]) * len(group[1]))
    rng, spent = np.random.default_rng(0), 0.0
    for bits in parameters.prime_bits[: stage.level + 1]:
        shape = Shape(degree=BLOCK, primes=(2**bits - 1,))
        values = list(rng.integers(2**bits - 1, size=(len(columns), 2, 1, BLOCK), dtype=np.uint64))
        start = time.process_time()
        combine(whole[np.ix_(rows, columns)], values, shape)
        spent += time.process_time() - start
    share = sum(len(r) * len(c) for r, c in found) / (len(rows) * len(columns))
    return float(1000 * spent * share * parameters.degree / BLOCK)
