"""What one ciphertext operation costs on this machine, at each level: the planner's cost model."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from reticent.inference.ckks.engine import SealEngine, context_of, galois_keys, seal_library
from reticent.inference.ckks.parameters import Parameters

_REPEATS = 5


@dataclass(frozen=True, kw_only=True)
class Primitives:
    """Milliseconds of CPU time by operation and level."""

    table: Mapping[str, tuple[float, ...]]

    def at(self, operation: str, level: int) -> float:
        """The time of `operation` on a ciphertext with `level` products left."""
        return self.table[operation][level]


@lru_cache(maxsize=8)
def measured(parameters: Parameters) -> Primitives:
    """Primitives of a ring, least of five runs each; kept for the life of the process."""
    seal = seal_library()
    context = context_of(parameters)
    generator = seal.KeyGenerator(context)
    public = generator.create_public_key()
    engine = SealEngine(
        context,
        public=public,
        relinearise=generator.create_relin_keys(),
        rotations=galois_keys(generator, [1]),
    )
    encryptor = seal.Encryptor(context, public)
    values = np.linspace(-1, 1, parameters.slots)
    scale = 2.0**parameters.scale_bits
    table: dict[str, list[float]] = {
        name: [] for name in ("rotate", "multiply_plain", "multiply", "rescale", "mask", "load")
    }
    for level in range(parameters.levels + 1):
        plain = engine.encode(values, scale=scale, level=level)
        one = encryptor.encrypt(plain)
        for name, call in _operations(engine, one, plain, values, scale, level).items():
            table[name].append(_least(call))
    return Primitives(table={name: tuple(times) for name, times in table.items()})


def _operations(
    engine: SealEngine, one: Any, plain: Any, values: Any, scale: float, level: int
) -> dict[str, Callable[[], Any]]:
    data = engine.save(one)

    def mask() -> Any:
        made = engine.encode(values, scale=scale, level=level)
        return engine.rerandomise(engine.add_plain(one, made))

    def product() -> Any:
        return engine.add(engine.multiply_plain(one, plain), one_squared_scale)

    if level == 0:
        # The last prime is never divided by, and no product is taken there.
        return {
            "rotate": lambda: engine.rotate(one, 1),
            "multiply_plain": lambda: None,
            "multiply": lambda: None,
            "rescale": lambda: None,
            "mask": mask,
            "load": lambda: engine.load(data),
        }
    one_squared_scale = engine.multiply_plain(one, plain)
    return {
        "rotate": lambda: engine.add(engine.rotate(one, 1), one),
        "multiply_plain": product,
        "multiply": lambda: engine.multiply(one, one),
        "rescale": lambda: engine.rescale(one_squared_scale),
        "mask": mask,
        "load": lambda: engine.load(data),
    }


def _least(call: Callable[[], Any]) -> float:
    times = []
    for _ in range(_REPEATS):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return 1000 * min(times)
