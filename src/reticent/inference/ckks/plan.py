"""The plan: packing, levels, ring and costs, settled and shown before anything is encrypted."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from reticent.errors import UnsupportedError
from reticent.inference.ckks import packing
from reticent.inference.ckks.chain import Chain, Error, best, unfitting
from reticent.inference.ckks.lowering import Lowered, lower
from reticent.inference.ckks.packing import Layer
from reticent.inference.ckks.parameters import MOST_BITS, Parameters
from reticent.inference.ckks.primitives import Primitives, measured
from reticent.inference.ckks.program import Program

Goal = Literal["latency", "upload"]
# Of one client's keys and the weights that are encoded beside them.
MOST_BYTES = 4_000_000_000
# Of a first matrix's outputs, each shifted for the second.
MOST_COPIES = 8


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a packing costs; bytes, milliseconds of one thread's CPU time.

    `places` are the binary places of an answer that noise leaves right, by simulation.
    """

    packing: str
    rotations: int
    fewest_rotations: int
    upload_bytes: int
    reply_bytes: int
    key_bytes: int
    server_ms: float
    places: int

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return dict(vars(self))


@dataclass(frozen=True, kw_only=True)
class ClientPlan:
    """What a client needs, with no weight in it; `places` are the binary ones to round to."""

    parameters: Parameters
    columns: NDArray[np.int64] = field(repr=False)
    outputs: NDArray[np.int64] = field(repr=False)
    steps: tuple[int, ...]
    inputs: int
    bound: float
    digest: bytes
    places: int


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A program laid out for a ring. `estimate` is what was chosen, `others` what was not."""

    chain: Chain
    lowered: Lowered = field(repr=False)
    layers: tuple[Layer, ...] = field(repr=False)
    bound: float
    estimate: Estimate
    others: tuple[Estimate, ...]
    primitives: Primitives = field(repr=False)

    @property
    def parameters(self) -> Parameters:
        """The ring and its primes."""
        return self.chain.parameters

    @property
    def steps(self) -> tuple[int, ...]:
        """Every rotation that keys are needed for."""
        return tuple(sorted(_steps(self.layers)))

    @cached_property
    def digest(self) -> bytes:
        """16 bytes that client and server must agree on: ring, layout, rotations, bound."""
        parts = hashlib.sha256()
        record = [vars(self.parameters), self.steps, self.bound, self.estimate.packing]
        parts.update(json.dumps(record, sort_keys=True).encode())
        parts.update(self.layers[0].columns.tobytes())
        parts.update(self.layers[-1].outputs.tobytes())
        return parts.digest()[:16]

    def for_client(self) -> ClientPlan:
        """The part that a client is handed."""
        return ClientPlan(
            parameters=self.parameters,
            columns=self.layers[0].columns,
            outputs=self.layers[-1].outputs,
            steps=self.steps,
            inputs=self.lowered.matrices[0].weight.shape[1],
            bound=self.bound,
            digest=self.digest,
            places=self.estimate.places,
        )

    def describe(self) -> str:
        """The figures in words, the packings not chosen below them."""
        p = self.parameters
        lines = [
            f"levels {p.levels}, ring {p.degree}, modulus {p.bits} bits, 128-bit security",
            *(_line(each) for each in (self.estimate, *self.others)),
        ]
        return "\n".join(lines)


def plan(program: Program, *, goal: Goal = "latency", primitives: Primitives | None = None) -> Plan:
    """The cheapest layout of `program` for `goal`, from primitives measured on this machine.

    Raises `UnsupportedError` for what no ring holds, naming the layer.
    """
    if goal not in get_args(Goal):
        raise UnsupportedError(
            f"Never here: goal={goal!r}. Choose latency or upload; for batches use plan_batch."
        )
    lowered = lower(program)
    found = _affordable(_candidates(lowered, program.bound))
    degree = found[0].chain.parameters.degree
    levels = max(each.chain.parameters.levels for each in found)
    costs = primitives or measured(degree, levels)
    ranked = sorted(
        ((each, _estimate(each, lowered, costs)) for each in found),
        key=lambda one: one[1].server_ms if goal == "latency" else one[1].upload_bytes,
    )
    (laid, chosen), *others = ranked
    return Plan(
        chain=laid.chain,
        lowered=lowered,
        layers=laid.layers,
        bound=program.bound,
        estimate=chosen,
        others=tuple(other for _, other in others),
        primitives=costs,
    )


@dataclass(frozen=True, kw_only=True)
class _Laid:
    packing: str
    layers: tuple[Layer, ...]
    chain: Chain
    error: Error


def _candidates(lowered: Lowered, bound: float) -> list[_Laid]:
    """Every packing with its cheapest chain that is precise enough, in the smallest ring."""
    widest = max(max(matrix.weight.shape) for matrix in lowered.matrices)
    for degree in MOST_BITS:
        if widest > degree // 2:
            continue
        found = []
        for name, layers in _packings(lowered, degree // 2):
            made = best(lowered, layers, degree, bound=bound)
            if made is not None:
                chain, error = made
                found.append(_Laid(packing=name, layers=layers, chain=chain, error=error))
        if found:
            return found
    raise UnsupportedError(unfitting(lowered))


def _affordable(found: list[_Laid]) -> list[_Laid]:
    """The packings whose encoded weights and keys a server can hold.

    Raises `UnsupportedError` with the size of the smallest where none is.
    """
    sizes = [_encoded_bytes(each) for each in found]
    kept = [one for one, size in zip(found, sizes, strict=True) if size <= MOST_BYTES]
    if not kept:
        raise UnsupportedError(
            f"Never on one machine: the network's encoded weights and keys take "
            f"{min(sizes) / 1e9:.0f} GB, at most {MOST_BYTES / 1e9:.0f} GB are held. Use narrower "
            "layers, or encrypt only the head (sealed split)."
        )
    return kept


def _encoded_bytes(laid: _Laid) -> int:
    total, parameters = 0, laid.chain.parameters
    for layer, stage in zip(laid.layers, laid.chain.stages, strict=True):
        total += len(layer.turns) * len(layer.columns) * parameters.degree * (stage.level + 1) * 8
    return total + parameters.key_bytes(len(_steps(laid.layers)))


def _steps(layers: tuple[Layer, ...]) -> set[int]:
    return set().union(*(layer.steps for layer in layers))


def _packings(lowered: Lowered, slots: int) -> Iterator[tuple[str, tuple[Layer, ...]]]:
    """Ways to lay the network out, by name; those that don't fit the slots are left out."""
    first, *rest = lowered.matrices
    outputs, inputs = first.weight.shape
    if not rest:
        only = packing.last(outputs, *packing.repeated(inputs, slots))
        if only is not None:
            yield "single", (only,)
    if rest or only is None:
        yield "single", _following(packing.single(outputs, inputs, slots), lowered)
    copies = 1
    while copies <= MOST_COPIES:
        after = len(rest[0].weight) if len(rest) > 1 else 1
        try:
            laid = packing.several(first.weight, slots, copies=copies, after=after)
        except UnsupportedError:
            if copies == 1:
                raise
            return
        yield "several" if copies == 1 else f"several, {copies} copies", _following(laid, lowered)
        copies *= 2


def _following(first: Layer, lowered: Lowered) -> tuple[Layer, ...]:
    layers = [first]
    for index, matrix in enumerate(lowered.matrices[1:], 2):
        before, rows = layers[-1], len(matrix.weight)
        ends = index == len(lowered.matrices)
        blocks = packing.last(rows, before.outputs, packing.period_of(before)) if ends else None
        layers.append(blocks or packing.thinned(matrix.weight, packing.hidden(rows, before)))
    return tuple(layers)


def _estimate(laid: _Laid, lowered: Lowered, costs: Primitives) -> Estimate:
    """Counts times primitives, each at the level where it happens."""
    total, layers, parameters = 0.0, laid.layers, laid.chain.parameters
    for index, (layer, stage) in enumerate(zip(layers, laid.chain.stages, strict=True)):
        babies, giants = len(set(layer.babies) - {0}), len(set(layer.giants) - {0})
        products = len(layer.turns) * len(layer.columns)
        total += costs.at("rotate", stage.level) * babies
        total += costs.at("multiply_plain", stage.level) * products
        total += costs.at("rescale", stage.level) * len(layer.giants) * stage.divides
        total += costs.at("rotate", stage.left) * (giants + len(layer.sums))
        if index < len(lowered.squares):
            total += costs.at("multiply", stage.left)
    uploads = len(layers[0].columns)
    return Estimate(
        packing=laid.packing,
        rotations=sum(layer.count for layer in layers),
        fewest_rotations=sum(packing.fewest_rotations(layer) for layer in layers),
        upload_bytes=uploads * parameters.ciphertext_bytes,
        reply_bytes=2 * parameters.degree * 8,
        key_bytes=parameters.key_bytes(len(_steps(layers))),
        server_ms=total + costs.at("mask", 0) + costs.at("load", parameters.levels) * uploads,
        places=laid.error.places,
    )


def _line(each: Estimate) -> str:
    return (
        f"{each.packing}: {each.rotations} rotations (at least {each.fewest_rotations}), "
        f"keys {each.key_bytes / 1e6:.1f} MB, upload {each.upload_bytes / 1e6:.2f} MB, reply "
        f"{each.reply_bytes / 1e6:.2f} MB, about {each.server_ms:.0f} ms of the server's CPU, "
        f"answers right to {each.places} binary places"
    )
