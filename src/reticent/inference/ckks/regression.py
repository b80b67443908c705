"""Logistic regression on ciphertexts: the server trains on records that it can't read.

Records are rows of a ciphertext, weights are repeated in each row, and a step of gradient descent
takes five products in a row, with sigma replaced by its cubic least-squares fit (Kim et al. 2018,
"Secure logistic regression based on homomorphic encryption"). Then the levels are spent, and the
client makes the weights fresh: it decrypts them under a uniform mask of the server's, encrypts
them again, and the server takes the mask off. This honest-client refresh costs a round trip a step
and keeps the ring small; with it any number of steps is possible. Nesterov's momentum, which halves
their number, costs the server nothing: the client extrapolates the masked weights that it
refreshes, and the server its masks, which it knows.

**Who learns what.** The server: the number of records and features, nothing else (computational,
128 bits). The client, who owns records and key: the final weights; of those on the way it sees
sums with uniform numbers in [-2**28, 2**28), a statistical distance of |w / alpha| / 2**29 a slot
and step. A client that doesn't refresh honestly spoils its own model only. Unaudited.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reticent.errors import AuthenticationError, ConfigError, DataError, EvidenceError, InputError
from reticent.inference.ckks.envelope import Envelope, Kind, join, split, unpack
from reticent.inference.ckks.keys import SLACK, ClientKeys, load_keys
from reticent.inference.ckks.noise import places_for
from reticent.inference.ckks.parameters import Parameters, uniform
from reticent.random import SecureRandom

_LEVELS = 5
_SCALE = 2.0**30
_MASK_BITS = 28
# What noise adds to trained weights a step, by the learning rate's share: measured 2^-7 at most.
_STEP_ERROR = 2.0**-6
# sigma(-u) - 1/2 on [-8, 8] by least squares: -_LINEAR u + _CUBIC u^3.
LIMIT, _LINEAR, _CUBIC = 8.0, 0.15006692, 0.00159107
_KAPPA = (_CUBIC / _LINEAR) ** 0.5

Array = NDArray[np.float64]


def fitted_sigmoid(u: Array) -> Array:
    """The cubic that stands for sigma(-u) where |u| <= `LIMIT`; beyond it, it is no sigmoid."""
    return 0.5 - _LINEAR * u + _CUBIC * u**3


@dataclass(frozen=True, kw_only=True)
class Regression:
    """What both sides agree on: `features` numbers of each of `records`, and the learning rate.

    A constant is added to each record. `accelerated` is the number of steps of Nesterov's momentum
    (None: plain descent, any number of steps). Raises `ConfigError` for sizes that no ring holds.
    """

    features: int
    records: int
    learning_rate: float = 1.0
    accelerated: int | None = None

    def __post_init__(self) -> None:
        if not (1 <= self.features < 2048 and self.records >= 1 and 0 < self.learning_rate <= 100):
            raise ConfigError(
                "Expected 1 to 2047 features, records >= 1 and 0 < learning_rate <= 100, got "
                f"{self}."
            )
        if self.accelerated is not None and self.accelerated < 1:
            raise ConfigError(
                f"Expected accelerated >= 1 steps, or None, got accelerated={self.accelerated}."
            )

    @property
    def parameters(self) -> Parameters:
        """The ring: five products in a row."""
        return uniform(16384, levels=_LEVELS, scale_bits=30)

    @property
    def width(self) -> int:
        """Slots of one record."""
        return 1 << self.features.bit_length()

    @property
    def rows(self) -> int:
        """Records in one ciphertext."""
        return self.parameters.slots // self.width

    @property
    def chunks(self) -> int:
        """Ciphertexts of records."""
        return -(-self.records // self.rows)

    @property
    def alpha(self) -> float:
        """Weights are held as w / alpha, so that a step needs no product for its rate."""
        return float(-self.learning_rate / self.records * _LINEAR / _KAPPA)

    @property
    def steps(self) -> tuple[int, ...]:
        """Every rotation that keys are needed for."""
        slots, inner = self.parameters.slots, _doublings(1, self.width)
        return tuple(
            sorted({*inner, *(slots - step for step in inner), *_doublings(self.width, slots)})
        )

    @property
    def digest(self) -> bytes:
        """16 bytes that client and server must agree on."""
        record = ["regression", vars(self.parameters), self.features, self.records]
        text = json.dumps([*record, self.learning_rate, self.accelerated])
        return hashlib.sha256(text.encode()).digest()[:16]

    def step(self, rows: Array, weights: Array) -> Array:
        """One step on plaintext: signed rows (n, features + 1), weights (features + 1,)."""
        pull = fitted_sigmoid(rows @ weights)
        made: Array = weights + self.learning_rate / self.records * rows.T @ pull
        return made

    def momentum(self, step: int) -> float:
        """How far the weights after `step` (from 1) steps are extrapolated: 0 after the last.

        Beck & Teboulle 2009, equation 4.2. Raises `ConfigError` beyond the last.
        """
        if self.accelerated is None:
            return 0.0
        if step > self.accelerated:
            raise ConfigError(f"Expected at most accelerated={self.accelerated} steps, got {step}.")
        size = 1.0
        for _ in range(step - 1):
            size = (1 + math.sqrt(1 + 4 * size**2)) / 2
        beyond = (1 + math.sqrt(1 + 4 * size**2)) / 2
        return 0.0 if step == self.accelerated else (size - 1) / beyond


class RegressionClient:
    """Owns records and key. `most_steps` bounds what one key decrypts."""

    _steps: int
    _before: Array

    def __init__(self, task: Regression, *, most_steps: int = 10_000) -> None:
        self._task, self._most_steps = task, most_steps
        self._keys = ClientKeys(task.parameters, plan=task.digest, steps=task.steps)
        self.public_keys = self._keys.public
        self.decrypted = 0
        self._steps = 0
        self._before: Array = np.zeros(task.parameters.slots)

    def encrypt_records(self, x: Array, y: NDArray[Any]) -> Iterator[bytes]:
        """Messages of records x (n, features) with labels y (n,) of 0 and 1.

        Raises `InputError` for other shapes, labels, or numbers that are not finite.
        """
        task = self._task
        x = np.asarray(x, dtype=np.float64)
        if x.shape != (task.records, task.features) or not np.isfinite(x).all():
            raise InputError(
                f"Expected finite records ({task.records}, {task.features}), got shape={x.shape}."
            )
        if np.shape(y) != (task.records,) or not np.isin(y, (0, 1)).all():
            raise InputError(f"Expected a label 0 or 1 for each of {task.records} records.")
        signed = signed_rows(x, y)
        for at in range(0, task.records, task.rows):
            table = np.zeros((task.rows, task.width))
            part = signed[at : at + task.rows]
            table[: len(part), : task.features + 1] = part
            yield self._encrypted(table.ravel())

    def start(self) -> bytes:
        """Fresh weights of zero, for training from the start."""
        self._restart()
        return self._encrypted(np.zeros(self._task.parameters.slots))

    def refresh(self, reply: bytes) -> bytes:
        """The same masked weights with all their levels again, extrapolated by the momentum."""
        masked = self._opened(reply)
        self._steps += 1
        beta = self._task.momentum(self._steps)
        made, self._before = (1 + beta) * masked - beta * self._before, masked
        return self._encrypted(made)

    def weights(self, reply: bytes) -> Array:
        """The trained weights (features + 1,), the constant's last, rounded to the places that the
        noise of so many steps leaves right, as measured and not certified.
        """
        found = self._opened(reply)[: self._task.features + 1] * self._task.alpha
        if not np.all(np.abs(found) < 2.0**16):
            raise EvidenceError(
                "The reply decrypts to weights above 65,536. Training diverged: scale the records "
                "down, or lower the learning rate."
            )
        error = _STEP_ERROR * abs(self._task.alpha) * max(1, self._steps)
        step = 2.0 ** -places_for(error)
        rounded: Array = np.round(found / step) * step
        return rounded

    def _restart(self) -> None:
        self._steps, self._before = 0, np.zeros(self._task.parameters.slots)

    def _encrypted(self, values: Array) -> bytes:
        return self._keys.request([values], scale=_SCALE)

    def _opened(self, reply: bytes) -> Array:
        if self.decrypted >= self._most_steps:
            raise EvidenceError(f"This key has decrypted most_steps={self._most_steps} replies.")
        values = self._keys.opened(reply, scale=_SCALE, primes=1)
        self.decrypted += 1
        if not np.all(np.abs(values) < 2.0 ** (_MASK_BITS + 1)):
            raise EvidenceError("The reply decrypts to no masked weights. Start again.")
        return values


class RegressionServer:
    """Trains with public keys only: bytes, or a file of them, which is never in memory whole."""

    _steps: int
    _before: Array
    _mask: Array | None

    def __init__(self, task: Regression, keys: bytes | Path) -> None:
        self._task, self._random = task, SecureRandom()
        self._key_id, self._engine = load_keys(
            task.parameters, keys, plan=task.digest, steps=task.steps
        )
        self._records: list[Any] = []
        self._mask: Array | None = None
        self._steps = 0
        self._before: Array = np.zeros(task.parameters.slots)

    def load(self, messages: Iterable[bytes], *, spool: Path | None = None) -> None:
        """Take the encrypted records; with `spool`, a folder, one at a time is in memory.

        Training starts anew. Raises `DataError` for another number of messages.
        """
        self._restart()
        self._records = []
        for index, message in enumerate(messages):
            made = self._read(message)
            if index == self._task.chunks:
                raise DataError(f"Expected {index} messages of records, got more.")
            if spool is not None:
                file = spool / f"{index}.records"
                file.write_bytes(message)
                made = file
            self._records.append(made)
        if len(self._records) != self._task.chunks:
            raise DataError(
                f"Expected {self._task.chunks} messages of records, got {len(self._records)}."
            )

    def step(self, weights: bytes) -> bytes:
        """One step from fresh weights; the reply holds masked ones, for the client to refresh."""
        if not self._records:
            raise DataError("Expected the records before the first step.")
        engine, task = self._engine, self._task
        fresh = self._unmasked(weights)
        total = None
        for held in self._records:
            records = self._read(held.read_bytes()) if isinstance(held, Path) else held
            part = self._pulled(records, fresh)
            total = part if total is None else engine.add(total, part)
        for turn in _doublings(task.width, task.parameters.slots):
            total = engine.add(total, engine.rotate(total, turn))
        made = engine.add(engine.exactly(total, _SCALE), engine.lower(fresh, 0))
        noise = self._random.uniform((task.parameters.slots,)) * 2.0 ** (_MASK_BITS + 1)
        mask = noise - 2.0**_MASK_BITS
        beta = task.momentum(self._steps + 1)
        self._mask, self._before = (1 + beta) * mask - beta * self._before, mask
        self._steps += 1
        plain = engine.encode(mask, scale=engine.scale(made), level=0)
        return self._reply(engine.add_plain(made, plain))

    def finish(self, weights: bytes) -> bytes:
        """The weights without a mask, for the client who owns them."""
        made = self._engine.lower(self._unmasked(weights), 0)
        self._restart()
        return self._reply(made)

    def _restart(self) -> None:
        self._mask = None
        self._steps, self._before = 0, np.zeros(self._task.parameters.slots)

    def _pulled(self, records: Any, weights: Any) -> Any:
        """Each record times how much it is still misjudged: the summands of the gradient."""
        engine, task = self._engine, self._task
        scores = engine.rescale(engine.multiply(records, weights))
        for turn in _doublings(1, task.width):
            scores = engine.add(scores, engine.rotate(scores, turn))
        # The sum stands in a row's first slot; the others hold sums across rows.
        first = np.zeros((task.rows, task.width))
        first[:, 0] = _KAPPA * task.alpha
        plain = engine.encode(first.ravel(), scale=self._first_scale(scores), level=_LEVELS - 1)
        z = engine.rescale(engine.multiply_plain(scores, plain))
        for turn in _doublings(1, task.width):
            z = engine.add(z, engine.rotate(z, task.parameters.slots - turn))
        square = engine.rescale(engine.multiply(z, z))
        rest = engine.add_plain(engine.negate(square), self._constant(1.0, square))
        cubic = engine.rescale(engine.multiply(engine.lower(z, engine.level(rest)), rest))
        pull = engine.add_plain(cubic, self._constant(-0.5 * _KAPPA / _LINEAR, cubic))
        return engine.rescale(engine.multiply(engine.lower(records, engine.level(pull)), pull))

    def _first_scale(self, scores: Any) -> float:
        """The scale that lets the last product come out at exactly `_SCALE`."""
        engine = self._engine
        one, two, three = (engine.prime(level) for level in (1, 2, 3))
        wanted = (float(one) * two * three) ** (1 / 3)
        made: float = wanted * engine.prime(_LEVELS - 1) / engine.scale(scores)
        return made

    def _constant(self, value: float, like: Any) -> Any:
        numbers = np.full(self._task.parameters.slots, value)
        engine = self._engine
        return engine.encode(numbers, scale=engine.scale(like), level=engine.level(like))

    def _unmasked(self, weights: bytes) -> Any:
        made = self._read(weights)
        if self._mask is None:
            return made
        plain = self._engine.encode(-self._mask, scale=_SCALE, level=_LEVELS)
        return self._engine.add_plain(made, plain)

    def _read(self, message: bytes) -> Any:
        size = self._task.parameters.ciphertext_bytes + SLACK
        envelope = unpack(message, kind=Kind.REQUEST, plan=self._task.digest, most=size + 8)
        if envelope.keys != self._key_id:
            raise AuthenticationError(
                f"Expected messages under keys {self._key_id.hex()[:12]}, got "
                f"{envelope.keys.hex()[:12]}."
            )
        made = self._engine.load(split(envelope.content, count=1, most=size)[0])
        if self._engine.level(made) != _LEVELS or self._engine.scale(made) != _SCALE:
            raise DataError("Expected a fresh ciphertext of the client's, got a spent one.")
        return made

    def _reply(self, made: Any) -> bytes:
        content = join([self._engine.save(self._engine.rerandomise(made))])
        return Envelope(
            kind=Kind.REPLY, plan=self._task.digest, keys=self._key_id, content=content
        ).pack()


def signed_rows(x: Array, y: NDArray[Any]) -> Array:
    """Rows (n, features + 1): a constant added, the sign turned where the label is 0."""
    signs = np.where(np.asarray(y) == 1, 1.0, -1.0)[:, None]
    made: Array = np.hstack([x, np.ones((len(x), 1))]) * signs
    return made


def _doublings(start: int, stop: int) -> tuple[int, ...]:
    steps = []
    while start < stop:
        steps.append(start)
        start *= 2
    return tuple(steps)
