"""The server half: a polynomial network on ciphertexts, with public keys only."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from reticent.errors import AuthenticationError, ConfigError, DataError
from reticent.inference.ckks import packing
from reticent.inference.ckks.chain import Stage
from reticent.inference.ckks.engine import Engine
from reticent.inference.ckks.envelope import Envelope, Kind, join, split, unpack
from reticent.inference.ckks.flooding import flooded
from reticent.inference.ckks.keys import SLACK, load_keys
from reticent.inference.ckks.lowering import Square
from reticent.inference.ckks.masking import masked
from reticent.inference.ckks.packing import Layer
from reticent.inference.ckks.plan import Plan
from reticent.inference.ckks.program import Values
from reticent.inference.ckks.rows import Matrix
from reticent.random import SecureRandom


class EncryptedServer:
    """Answers encrypted queries of one client, whose evaluation keys it was given.

    Replies are masked and re-randomised, see `masked`. That the noise in the answers, which depends
    on the weights, is drowned as well is claimed only of a plan with a flood, see `flooding`.
    Servers of one plan may share its `weights` (None: own ones). Raises `DataError` and
    `BundleError` for bytes that are no keys of this plan, `ConfigError` for another plan's weights.
    """

    def __init__(self, plan: Plan, keys: bytes, *, weights: Weights | None = None) -> None:
        if weights is not None and weights.plan is not plan:
            raise ConfigError(
                f"Expected weights of plan {plan.digest.hex()[:12]}, got another's, of "
                f"{weights.plan.digest.hex()[:12]}. Make them with Weights(plan)."
            )
        self._plan = plan
        self._weights = weights or Weights(plan)
        self._key_id, self._engine = load_keys(
            plan.parameters, keys, plan=plan.digest, steps=plan.steps
        )
        self._answers = plan.outputs >= 0
        self._random = SecureRandom()

    def answer(self, request: bytes) -> bytes:
        """The encrypted reply. Raises `DataError`, `BundleError`, `AuthenticationError`."""
        sizes = self._plan.parameters.ciphertext_bytes + SLACK
        count = len(self._plan.layers[0].columns)
        envelope = unpack(
            request, kind=Kind.REQUEST, plan=self._plan.digest, most=count * (sizes + 8)
        )
        if envelope.keys != self._key_id:
            raise AuthenticationError(
                f"Expected a query under keys {self._key_id.hex()[:12]}, got "
                f"{envelope.keys.hex()[:12]}. Upload the evaluation keys of this client."
            )
        parts = split(envelope.content, count=count, most=sizes)
        values = [self._fresh(part) for part in parts]
        made = self._weights.run(self._engine, values)
        reply = self._engine.save(self._hidden(made))
        return Envelope(
            kind=Kind.REPLY, plan=self._plan.digest, keys=self._key_id, content=join([reply])
        ).pack()

    def _hidden(self, made: Any) -> Any:
        if self._plan.flood is None:
            return masked(self._engine, made, self._answers, self._random)
        return flooded(self._engine, made, self._answers, self._plan.flood, self._random)

    def _fresh(self, part: bytes) -> Any:
        engine, parameters = self._engine, self._plan.parameters
        made = engine.load(part)
        scale = 2.0**parameters.scale_bits
        if engine.level(made) != parameters.levels or engine.scale(made) != scale:
            raise DataError(
                f"Expected a ciphertext at level={parameters.levels} and scale=2^"
                f"{parameters.scale_bits}, got level={engine.level(made)} and "
                f"scale={engine.scale(made):g}. Encrypt with the client."
            )
        return made


class Weights:
    """A plan's weights, encoded at their first use and then kept as plaintexts alone.

    They depend on the parameters and on no key, so that one object serves all clients of a process.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._layers = [
            _Ready(layer, matrix, square, stage)
            for layer, matrix, square, stage in zip(
                plan.layers,
                plan.lowered.matrices,
                (*plan.lowered.squares, None),
                plan.chain.stages,
                strict=True,
            )
        ]

    def run(self, engine: Engine, values: list[Any]) -> Any:
        """The network's encrypted answer to encrypted inputs, with the keys that `engine` has."""
        for layer in self._layers:
            values = [layer.run(engine, values)]
        return values[0]


class _Ready:
    """One matrix, and the square behind it, with weights encoded at the level of their use.

    A plan's scales are the same in every query, whoever asks: what was encoded for one fits all.
    """

    def __init__(self, layer: Layer, matrix: Matrix, square: Square | None, stage: Stage) -> None:
        self._layer, self._matrix, self._stage = layer, matrix, stage
        # By the scale of what they multiply.
        self._encoded: tuple[float, list[dict[int, Any]]] = (0.0, [])
        self._kept: dict[tuple[str, float], Any] = {}
        self._bias = _spread(matrix.bias, layer)
        self._offset = None if square is None else _spread(square.offset, layer)

    def run(self, engine: Engine, values: list[Any]) -> Any:
        layer, incoming = self._layer, engine.scale(values[0])
        scale, encoded = self._encoded
        if scale != incoming:
            encoded = self._made(engine, incoming)
            self._encoded = (incoming, encoded)
        babies = [_babies(engine, value, layer) for value in values]
        total = self._turned(engine, babies, encoded)
        for step in layer.sums:
            total = engine.add_into(engine.rotate(total, step), total)
        total = engine.add_plain(total, self._plain(engine, "bias", self._bias, total))
        return total if self._offset is None else self._squared(engine, total)

    def _turned(
        self, engine: Engine, babies: list[dict[int, Any]], encoded: list[dict[int, Any]]
    ) -> Any:
        """The sum over giant steps, from the last down, as Horner's rule has it: one key for all
        steps that are equally far apart.
        """
        total, at = None, 0
        for giant in reversed(self._layer.giants):
            if total is not None:
                total = engine.rotate_into(total, at - giant)
            at = giant
            # What is met for the last time needs no copy.
            last = giant == self._layer.giants[0]
            part = _inner(engine, babies, encoded, giant, last=last)
            if part is None:
                continue
            for _ in range(self._stage.divides):
                part = engine.rescale(part)
            total = part if total is None else engine.add_into(total, part)
        assert total is not None
        return engine.rotate_into(total, at) if at else total

    def _made(self, engine: Engine, incoming: float) -> list[dict[int, Any]]:
        """Weights at the scale that leaves exactly the stage's, behind the division if any."""
        stage, baby = self._stage, self._layer.baby
        primes = (engine.prime(level) for level in range(stage.level, stage.left, -1))
        scale = 2.0**stage.out_bits * math.prod(map(float, primes)) / incoming
        return [
            {
                rotation: engine.encode(
                    np.roll(weights, rotation // baby * baby), scale=scale, level=stage.level
                )
                for rotation, weights in enumerate(each)
                if weights.any()
            }
            for each in packing.diagonals(self._matrix.weight, self._layer)
        ]

    def _squared(self, engine: Engine, x: Any) -> Any:
        assert self._offset is not None
        if not self._offset.any():
            return engine.multiply(x, x)
        moved = engine.add_plain(x, self._plain(engine, "offset", self._offset, x))
        return engine.multiply(x, moved)

    def _plain(self, engine: Engine, name: str, values: Values, like: Any) -> Any:
        """`values` at the scale and level of `like`, which are the same for every query."""
        scale = engine.scale(like)
        if (name, scale) not in self._kept:
            made = engine.encode(values, scale=scale, level=engine.level(like))
            self._kept = {**self._kept, (name, scale): made}
            return made
        return self._kept[name, scale]


def _inner(
    engine: Engine,
    babies: list[dict[int, Any]],
    encoded: list[dict[int, Any]],
    giant: int,
    *,
    last: bool,
) -> Any:
    total = None
    multiply = engine.multiply_into if last else engine.multiply_plain
    for turned, plains in zip(babies, encoded, strict=True):
        for baby, value in turned.items():
            plain = plains.get(giant + baby)
            if plain is None:
                continue
            product = multiply(value, plain)
            total = product if total is None else engine.add_into(total, product)
    return total


def _babies(engine: Engine, value: Any, layer: Layer) -> dict[int, Any]:
    return {step: engine.rotate(value, step) if step else value for step in layer.babies}


def _spread(values: Values, layer: Layer) -> Values:
    """A value per output, into the slots that hold it."""
    return np.where(layer.outputs >= 0, values[np.maximum(layer.outputs, 0)], 0.0)
