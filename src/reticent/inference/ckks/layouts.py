"""Every way to lay a network out in the smallest ring that holds it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from reticent.errors import UnsupportedError
from reticent.inference.ckks import packing
from reticent.inference.ckks.chain import Chain
from reticent.inference.ckks.choice import best, flooded_best, unfitting
from reticent.inference.ckks.flooding import Flood
from reticent.inference.ckks.lowering import Lowered
from reticent.inference.ckks.packing import Layer
from reticent.inference.ckks.parameters import MOST_BITS
from reticent.inference.ckks.reach import Reach, reach_within

# Of one client's keys and the encoded weights, which a process holds once for all its clients.
MOST_BYTES = 4_000_000_000
# Of a first matrix's outputs, each shifted for the second.
MOST_COPIES = 8


@dataclass(frozen=True, kw_only=True)
class Laid:
    packing: str
    layers: tuple[Layer, ...]
    chain: Chain
    error: float
    flood: Flood | None = None


def candidates(lowered: Lowered, bound: float, reach: Reach, flooding_bits: int) -> list[Laid]:
    """Every packing with its cheapest chain that is precise enough, in the smallest ring."""
    within = reach_within(lowered, bound) if flooding_bits else ()
    widest = max(max(matrix.weight.shape) for matrix in lowered.matrices)
    for degree in MOST_BITS:
        if widest > degree // 2:
            continue
        found = []
        for name, layers in packings(lowered, degree // 2, whole=flooding_bits > 0):
            if flooding_bits:
                flooded = flooded_best(
                    lowered,
                    layers,
                    degree,
                    reach=reach,
                    within=within,
                    bound=bound,
                    bits=flooding_bits,
                )
                if flooded is not None:
                    chain, error, flood = flooded
                    found.append(
                        Laid(packing=name, layers=layers, chain=chain, error=error, flood=flood)
                    )
                continue
            made = best(lowered, layers, degree, reach=reach)
            if made is not None:
                chain, error = made
                found.append(Laid(packing=name, layers=layers, chain=chain, error=error))
        if found:
            return found
    raise UnsupportedError(unfitting(lowered, flooding_bits))


def affordable(found: list[Laid]) -> list[Laid]:
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


def _encoded_bytes(laid: Laid) -> int:
    total, parameters = 0, laid.chain.parameters
    for layer, stage in zip(laid.layers, laid.chain.stages, strict=True):
        total += len(layer.turns) * len(layer.columns) * parameters.degree * (stage.level + 1) * 8
    return total + parameters.key_bytes(len(steps_of(laid.layers)))


def steps_of(layers: tuple[Layer, ...]) -> set[int]:
    return set().union(*(layer.steps for layer in layers))


def packings(
    lowered: Lowered, slots: int, *, whole: bool
) -> Iterator[tuple[str, tuple[Layer, ...]]]:
    """Ways to lay the network out, by name; those that don't fit the slots are left out.

    With `whole` no slot of the reply holds a partial sum.
    """
    first, *rest = lowered.matrices
    outputs, inputs = first.weight.shape
    only = None
    if not rest and not whole:
        only = packing.last(outputs, *packing.repeated(inputs, slots))
    if only is not None:
        yield "single", (only,)
    else:
        yield "single", _following(packing.single(outputs, inputs, slots), lowered, whole=whole)
    copies = 1
    while copies <= MOST_COPIES:
        after = len(rest[0].weight) if len(rest) > 1 else 1
        try:
            laid = packing.several(first.weight, slots, copies=copies, after=after)
        except UnsupportedError:
            if copies == 1:
                raise
            return
        yield (
            "several" if copies == 1 else f"several, {copies} copies",
            _following(laid, lowered, whole=whole),
        )
        copies *= 2


def _following(first: Layer, lowered: Lowered, *, whole: bool) -> tuple[Layer, ...]:
    layers = [first]
    for index, matrix in enumerate(lowered.matrices[1:], 2):
        before, rows = layers[-1], len(matrix.weight)
        ends = index == len(lowered.matrices) and not whole
        blocks = packing.last(rows, before.outputs, packing.period_of(before)) if ends else None
        layers.append(blocks or packing.thinned(matrix.weight, packing.hidden(rows, before)))
    return tuple(layers)
