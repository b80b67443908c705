"""What one ciphertext operation costs on this machine, at each level: the planner's cost model."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from reticent.inference.ckks.engine import SealEngine, context_of, keyed_engine, seal_library
from reticent.inference.ckks.envelope import checksum_of
from reticent.inference.ckks.masking import masked
from reticent.inference.ckks.parameters import MOST_BITS, Parameters, uniform
from reticent.random import SecureRandom

OPERATIONS = (
    "rotate",
    "multiply_plain",
    "multiply",
    "rescale",
    "mask",
    "load",
)
_REPEATS, _MANY = 5, 16


@dataclass(frozen=True, kw_only=True)
class Primitives:
    """Milliseconds of CPU time by operation and level."""

    table: Mapping[str, tuple[float, ...]]

    def at(self, operation: str, level: int) -> float:
        """The time of `operation` on a ciphertext with `level` products left."""
        return self.table[operation][level]


@lru_cache(maxsize=8)
def measured(degree: int, levels: int) -> Primitives:
    """Primitives of a ring up to a level, medians of five runs; kept while the process lives.

    The size of the primes makes no difference to their time, their number does. Products and
    loads are timed over several ciphertexts in turn, which no cache holds, as in a network.
    """
    parameters = _probe(degree, levels)
    seal = seal_library()
    context = context_of(parameters)
    generator = seal.KeyGenerator(context)
    public = generator.create_public_key()
    engine = keyed_engine(context, generator, public)
    encryptor = seal.Encryptor(context, public)
    values = np.linspace(-1, 1, parameters.slots)
    scale = 2.0**20
    table: dict[str, list[float]] = {name: [] for name in OPERATIONS}
    for level in range(parameters.levels + 1):
        plains = [engine.encode(values, scale=scale, level=level) for _ in range(_MANY)]
        pairs = [(encryptor.encrypt(plain), plain) for plain in plains]
        for name, call in _operations(engine, pairs, level).items():
            each = _MANY if name in ("multiply_plain", "load") else 1
            table[name].append(_middle(call) / each)
    return Primitives(table={name: tuple(times) for name, times in table.items()})


def _probe(degree: int, levels: int) -> Parameters:
    most = MOST_BITS[degree] // (levels + 2)
    return uniform(degree, levels=levels, scale_bits=min(most, 40), outer_bits=min(most, 60))


def _operations(
    engine: SealEngine, pairs: list[tuple[Any, Any]], level: int
) -> dict[str, Callable[[], Any]]:
    (one, plain), random = pairs[0], SecureRandom()
    answers = np.zeros(engine.slots, dtype=np.bool_)
    requests = [engine.save(each) for each, _ in pairs]

    def mask() -> bytes:
        return engine.save(masked(engine, one, answers, random))

    def load() -> list[Any]:
        # As a request's part: copied and its checksum taken.
        return [engine.load(bytes(memoryview(each))) for each in requests if checksum_of(each)]

    def turned() -> Any:
        return engine.add(engine.rotate(one, 1), one)

    if level == 0:
        # The last prime is never divided by, and no product is taken there.
        rest = dict.fromkeys(("multiply_plain", "multiply", "rescale"), _nothing)
        return {"rotate": turned, **rest, "mask": mask, "load": load}
    product = engine.multiply_plain(one, plain)
    total = engine.multiply_plain(one, plain)

    def products() -> None:
        for each, weights in pairs:
            engine.add_into(total, engine.multiply_plain(each, weights))

    return {
        "rotate": turned,
        "multiply_plain": products,
        "multiply": lambda: engine.multiply(one, one),
        "rescale": lambda: engine.rescale(product),
        "mask": mask,
        "load": load,
    }


def _nothing() -> None:
    """Takes no time."""


def _middle(call: Callable[[], Any]) -> float:
    times = []
    for _ in range(_REPEATS):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return 1000 * float(np.median(times))
