"""The plan: packing, levels, ring and costs, settled and shown before anything is encrypted."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from reticent.errors import UnsupportedError
from reticent.inference.ckks import packing
from reticent.inference.ckks.chain import FLOODED_BITS, Chain, flooded_chain
from reticent.inference.ckks.choice import headroom, shortage
from reticent.inference.ckks.flooding import Flood
from reticent.inference.ckks.layouts import Laid, affordable, candidates, steps_of
from reticent.inference.ckks.lowering import Lowered, lower
from reticent.inference.ckks.noise import CERTIFIED_BITS, places_for
from reticent.inference.ckks.packing import Layer
from reticent.inference.ckks.parameters import MOST_BITS, Parameters
from reticent.inference.ckks.primitives import Primitives, measured
from reticent.inference.ckks.program import Program, Values
from reticent.inference.ckks.reach import Reach, measured_reach

Goal = Literal["latency", "upload"]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a packing costs; bytes, milliseconds of one thread's CPU time.

    `places` are the binary places of an answer that noise leaves right, as certified.
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
    """What a client needs, with no weight in it; `places` are the binary ones to round to.

    A reply has `reply_primes` left, and numbers times 2**`reply_bits`.
    """

    parameters: Parameters
    columns: NDArray[np.int64] = field(repr=False)
    outputs: NDArray[np.int64] = field(repr=False)
    steps: tuple[int, ...]
    inputs: int
    bound: float
    digest: bytes
    places: int
    reply_primes: int
    reply_bits: int

    @property
    def reply_bytes(self) -> int:
        """Of a reply's one ciphertext."""
        return 2 * self.parameters.degree * 8 * self.reply_primes


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
    reach: Reach = field(repr=False)
    flood: Flood | None = None

    @property
    def parameters(self) -> Parameters:
        """The ring and its primes."""
        return self.chain.parameters

    @cached_property
    def outputs(self) -> NDArray[np.int64]:
        """Which answer a slot of the reply holds, -1 for none: one slot each, however many do."""
        made = np.full_like(self.layers[-1].outputs, -1)
        found, first = np.unique(self.layers[-1].outputs, return_index=True)
        made[first[found >= 0]] = found[found >= 0]
        return made

    @property
    def steps(self) -> tuple[int, ...]:
        """Every rotation that keys are needed for."""
        return tuple(sorted(steps_of(self.layers)))

    @cached_property
    def digest(self) -> bytes:
        """16 bytes that client and server must agree on: ring, layout, rotations, bound."""
        parts = hashlib.sha256()
        record = [vars(self.parameters), self.steps, self.bound, self.estimate.packing]
        parts.update(json.dumps(record, sort_keys=True).encode())
        parts.update(self.layers[0].columns.tobytes())
        parts.update(self.outputs.tobytes())
        return parts.digest()[:16]

    def for_client(self) -> ClientPlan:
        """The part that a client is handed."""
        return ClientPlan(
            parameters=self.parameters,
            columns=self.layers[0].columns,
            outputs=self.outputs,
            steps=self.steps,
            inputs=self.lowered.matrices[0].weight.shape[1],
            bound=self.bound,
            digest=self.digest,
            places=self.estimate.places,
            reply_primes=self.chain.stages[-1].left + 1,
            reply_bits=self.chain.stages[-1].out_bits,
        )

    def describe(self) -> str:
        """The figures in words, the packings not chosen below them."""
        p = self.parameters
        lines = [
            f"levels {p.levels}, ring {p.degree}, modulus {p.bits} bits, 128-bit security",
            *(_line(each) for each in (self.estimate, *self.others)),
            f"certified on {_inputs(self.reach)}: an answer errs by more with a chance of "
            f"2^-{CERTIFIED_BITS} at most; values of 2^{headroom(self.chain, self.reach):.0f} "
            "times the size would overflow",
            *_smaller(self),
            _flooding(self),
        ]
        return "\n".join(lines)


def plan(
    program: Program,
    *,
    goal: Goal = "latency",
    records: Values | None = None,
    reach: Reach | None = None,
    primitives: Primitives | None = None,
    flooding_bits: int = 0,
) -> Plan:
    """The cheapest layout of `program` for `goal`, from primitives measured on this machine.

    The answers' precision is certified for inputs like `records` (n, inputs), or as an earlier
    plan's `reach` has it; a linear program can do without. With `flooding_bits` replies tell
    nothing of the weights beyond answers, see `flooding`; 40 is usual, and takes a larger ring.
    Raises `UnsupportedError` for what no ring holds, naming the layer, `ConfigError` for a lack of
    records.
    """
    if goal not in get_args(Goal):
        raise UnsupportedError(
            f"Never here: goal={goal!r}. Choose latency or upload; for batches use plan_batch."
        )
    lowered = lower(program)
    reach = reach or measured_reach(lowered, program.bound, records)
    found = affordable(candidates(lowered, program.bound, reach, flooding_bits))
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
        reach=reach,
        flood=laid.flood,
    )


def _estimate(laid: Laid, lowered: Lowered, costs: Primitives) -> Estimate:
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
        fewest_rotations=sum(
            packing.fewest_rotations(matrix.weight, len(layer.columns), parameters.slots)
            for layer, matrix in zip(layers, lowered.matrices, strict=True)
        ),
        upload_bytes=uploads * parameters.ciphertext_bytes,
        reply_bytes=2 * parameters.degree * 8 * (laid.chain.stages[-1].left + 1),
        key_bytes=parameters.key_bytes(len(steps_of(layers))),
        server_ms=total
        + costs.at("mask", laid.chain.stages[-1].left)
        + costs.at("load", parameters.levels) * uploads,
        places=places_for(laid.error),
    )


def _line(each: Estimate) -> str:
    return (
        f"{each.packing}: {each.rotations} rotations (at least {each.fewest_rotations}), "
        f"keys {each.key_bytes / 1e6:.1f} MB, upload {each.upload_bytes / 1e6:.2f} MB, reply "
        f"{each.reply_bytes / 1e6:.2f} MB, about {each.server_ms:.0f} ms of the server's CPU, "
        f"answers right to {each.places} binary places"
    )


def _smaller(made: Plan) -> list[str]:
    """Why the next smaller ring doesn't do."""
    smaller = made.parameters.degree // 2
    if smaller not in MOST_BITS:
        return []
    bits = 0 if made.flood is None else made.flood.bits
    return [f"not ring {smaller}: {shortage(made.lowered, smaller, bits)}"]


def _inputs(reach: Reach) -> str:
    return f"{reach.records} records" if reach.records else "every input within the bound"


def _flooding(made: Plan) -> str:
    """What replies tell of the weights, or what it would cost that they don't."""
    if made.flood is not None:
        return f"replies {made.flood.describe()}"
    now = made.parameters
    for degree in MOST_BITS:
        least = min(FLOODED_BITS[0])
        chain = flooded_chain(len(made.layers), degree, scale=least, reply_bits=least + 30)
        if chain is not None and degree >= now.degree:
            then = chain.parameters
            times = then.degree * (then.levels + 1) ** 2 / (now.degree * (now.levels + 1) ** 2)
            return (
                f"replies masked, noise in answers not flooded: flooding_bits=40 would take ring "
                f"{degree}, modulus {then.bits} bits, about {times:.0f} times the server's CPU"
            )
    return "replies masked, noise in answers not flooded: no ring holds what that would take"
