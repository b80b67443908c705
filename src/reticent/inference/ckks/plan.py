"""The plan: packing, levels, ring and costs, settled and shown before anything is encrypted."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from reticent.errors import UnsupportedError
from reticent.inference.ckks import packing
from reticent.inference.ckks.lowering import Lowered, lower
from reticent.inference.ckks.packing import Layer
from reticent.inference.ckks.parameters import Parameters, smallest
from reticent.inference.ckks.primitives import Primitives, measured
from reticent.inference.ckks.program import Program

Goal = Literal["latency", "upload"]
PACKINGS = ("single", "several")
# Of one client's keys and the weights that are encoded beside them.
MOST_BYTES = 4_000_000_000


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a packing costs; bytes, milliseconds of one thread's CPU time."""

    packing: str
    rotations: int
    fewest_rotations: int
    upload_bytes: int
    reply_bytes: int
    key_bytes: int
    server_ms: float

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return dict(vars(self))


@dataclass(frozen=True, kw_only=True)
class ClientPlan:
    """What a client needs, with no weight in it."""

    parameters: Parameters
    columns: NDArray[np.int64] = field(repr=False)
    outputs: NDArray[np.int64] = field(repr=False)
    steps: tuple[int, ...]
    inputs: int
    bound: float
    digest: bytes


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A program laid out for a ring. `estimate` is what was chosen, `others` what was not."""

    parameters: Parameters
    lowered: Lowered = field(repr=False)
    layers: tuple[Layer, ...] = field(repr=False)
    bound: float
    estimate: Estimate
    others: tuple[Estimate, ...]

    @property
    def steps(self) -> tuple[int, ...]:
        """Every rotation that keys are needed for."""
        return tuple(sorted(set().union(*(layer.steps for layer in self.layers))))

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
    lowered = lower(program)
    widest = max(max(matrix.weight.shape) for matrix in lowered.matrices)
    parameters = smallest(
        lowered.levels, values=widest, layer=lowered.matrices[-1].name or "the last"
    )
    laid = [(name, _layers(lowered, name, parameters.slots)) for name in PACKINGS]
    laid = _affordable(laid, parameters)
    costs = primitives or measured(parameters)
    candidates = [
        (layers, _estimate(name, layers, lowered, parameters, costs)) for name, layers in laid
    ]
    if goal not in ("latency", "upload"):
        raise UnsupportedError(
            f"Never here: goal={goal!r}. Choose latency or upload; for batches use plan_batch."
        )
    candidates.sort(key=lambda one: one[1].server_ms if goal == "latency" else one[1].upload_bytes)
    (layers, chosen), *others = candidates
    return Plan(
        parameters=parameters,
        lowered=lowered,
        layers=layers,
        bound=program.bound,
        estimate=chosen,
        others=tuple(other for _, other in others),
    )


def _affordable(
    laid: list[tuple[str, tuple[Layer, ...]]], parameters: Parameters
) -> list[tuple[str, tuple[Layer, ...]]]:
    """The packings whose encoded weights and keys a server can hold.

    Raises `UnsupportedError` with the size of the smallest where none is.
    """
    sizes = [_encoded_bytes(layers, parameters) for _, layers in laid]
    kept = [one for one, size in zip(laid, sizes, strict=True) if size <= MOST_BYTES]
    if not kept:
        raise UnsupportedError(
            f"Never on one machine: the network's encoded weights and keys take "
            f"{min(sizes) / 1e9:.0f} GB, at most {MOST_BYTES / 1e9:.0f} GB are held. Use narrower "
            "layers, or encrypt only the head (sealed split)."
        )
    return kept


def _encoded_bytes(layers: tuple[Layer, ...], parameters: Parameters) -> int:
    total, level = 0, parameters.levels
    for layer in layers:
        total += layer.rotations * len(layer.columns) * parameters.degree * (level + 1) * 8
        level -= 2
    return total + parameters.key_bytes(len(set().union(*(layer.steps for layer in layers))))


def _layers(lowered: Lowered, name: str, slots: int) -> tuple[Layer, ...]:
    shapes = [matrix.weight.shape for matrix in lowered.matrices]
    outputs, inputs = shapes[0]
    layers: list[Layer] = []
    if len(shapes) == 1 and name == "single":
        only = packing.last(outputs, *packing.repeated(inputs, slots))
        if only is not None:
            return (only,)
    if name == "single":
        layers.append(packing.single(outputs, inputs, slots))
    else:
        layers.append(packing.several(lowered.matrices[0].weight, slots))
    for index, (rows, _) in enumerate(shapes[1:], 1):
        before = layers[-1]
        ends = index == len(shapes) - 1
        blocks = packing.last(rows, before.outputs, packing.period_of(before)) if ends else None
        layers.append(blocks or packing.hidden(rows, before))
    return tuple(layers)


def _estimate(
    name: str,
    layers: tuple[Layer, ...],
    lowered: Lowered,
    parameters: Parameters,
    costs: Primitives,
) -> Estimate:
    """Counts times primitives, each at the level where it happens."""
    total, level = 0.0, parameters.levels
    for index, layer in enumerate(layers):
        giants = -(-layer.rotations // layer.baby)
        total += costs.at("rotate", level) * (layer.baby - 1)
        total += costs.at("multiply_plain", level) * layer.rotations * len(layer.columns)
        total += costs.at("rescale", level) * giants
        level -= 1
        total += costs.at("rotate", level) * (giants - 1 + len(layer.sums))
        if index < len(lowered.squares):
            total += costs.at("multiply", level) + costs.at("rescale", level)
            level -= 1
    uploads = len(layers[0].columns)
    return Estimate(
        packing=name,
        rotations=sum(layer.count for layer in layers),
        fewest_rotations=sum(packing.fewest_rotations(layer) for layer in layers),
        upload_bytes=uploads * parameters.ciphertext_bytes,
        reply_bytes=2 * parameters.degree * 8,
        key_bytes=parameters.key_bytes(len(set().union(*(layer.steps for layer in layers)))),
        server_ms=total + costs.at("mask", 0) + costs.at("load", parameters.levels) * uploads,
    )


def _line(each: Estimate) -> str:
    return (
        f"{each.packing}: {each.rotations} rotations (at least {each.fewest_rotations}), "
        f"keys {each.key_bytes / 1e6:.1f} MB, upload {each.upload_bytes / 1e6:.2f} MB, reply "
        f"{each.reply_bytes / 1e6:.2f} MB, about {each.server_ms:.0f} ms of the server's CPU"
    )
