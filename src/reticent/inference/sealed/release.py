"""What leaves the client of a sealed split: ciphertexts of a fixed size."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reticent.errors import BundleError, ConfigError
from reticent.inference.channel import TensorSpec
from reticent.inference.ckks.client import EncryptedClient
from reticent.inference.ckks.envelope import HEADER_BYTES
from reticent.inference.ckks.parameters import Parameters
from reticent.inference.ckks.plan import ClientPlan

Array = NDArray[np.float32]
_SEEN = 64
_MOST_INDICES = 1 << 24


@dataclass(frozen=True, kw_only=True)
class Sealed:
    """Sends features under encryption: the server sees sizes and noise that looks uniform.

    Features beyond the plan's bound, for which the network's polynomials were checked, are
    clipped to it. `digits` are the binary places to which answers are rounded.
    """

    plan: ClientPlan = field(repr=False)

    @property
    def size(self) -> int:
        """d, the number of features that the encoder gives."""
        return self.plan.inputs

    @property
    def spec(self) -> TensorSpec:
        """The one request array: an encrypted record each, shape (batch,)."""
        return TensorSpec(name="ciphertext", dtype="object", shape=(None,))

    @property
    def reply(self) -> TensorSpec:
        """The one reply array: an encrypted answer each, shape (batch,)."""
        return TensorSpec(name="answer", dtype="object", shape=(None,))

    @property
    def bits(self) -> float:
        """Bits about the record that one request carries to whoever can't break the encryption."""
        return 0.0

    @property
    def nats_beyond_label(self) -> float:
        """None: not even the label."""
        return 0.0

    @property
    def request_bytes(self) -> int:
        """The content of one request."""
        return HEADER_BYTES + len(self.plan.columns) * self.plan.parameters.ciphertext_bytes

    @property
    def reply_bytes(self) -> int:
        """The content of one reply."""
        return HEADER_BYTES + self.plan.reply_bytes

    def clipped(self, features: Array) -> Array:
        """Features (n, d) as they are encrypted."""
        bound = np.float32(self.plan.bound)
        # The nearest float32 may lie beyond the bound: compared as float64, which tells them apart.
        if float(bound) > self.plan.bound:
            bound = np.nextafter(bound, np.float32(0))
        return np.clip(features, -bound, bound)

    def seen(self, features: Array) -> Array:
        """What the server can look at, (n, 64): a request's size and places all over it.

        Real encryptions of `features` (n, d) under keys that are then forgotten.
        """
        client = EncryptedClient(self.plan, most_queries=len(features))
        made = np.empty((len(features), _SEEN), dtype=np.float32)
        for row, each in zip(made, self.clipped(features), strict=True):
            request = client.encrypt(each)
            bytes_ = np.frombuffer(request, dtype=np.uint8)[HEADER_BYTES:]
            places = np.linspace(0, len(bytes_) - 1, _SEEN - 1).astype(np.int64)
            row[0], row[1:] = len(request), bytes_[places]
        return made

    def to_json(self) -> dict[str, Any]:
        """A JSON object that `sealed_from_json` restores."""
        plan = self.plan
        return {
            "kind": "sealed",
            "degree": plan.parameters.degree,
            "prime_bits": list(plan.parameters.prime_bits),
            "scale_bits": plan.parameters.scale_bits,
            "columns": _packed(plan.columns),
            "outputs": _packed(plan.outputs),
            "steps": list(plan.steps),
            "inputs": plan.inputs,
            "bound": plan.bound,
            "digest": plan.digest.hex(),
            "places": plan.places,
            "reply_primes": plan.reply_primes,
            "reply_bits": plan.reply_bits,
        }


def sealed_from_json(record: Mapping[str, Any]) -> Sealed:
    """The release that `to_json` wrote. Raises `BundleError` for anything else.

    The parameters are checked against the 128-bit table, whatever the provider wrote.
    """
    try:
        parameters = Parameters(
            degree=int(record["degree"]),
            prime_bits=tuple(int(bits) for bits in record["prime_bits"]),
            scale_bits=int(record["scale_bits"]),
        )
        plan = ClientPlan(
            parameters=parameters,
            columns=_unpacked(record["columns"]),
            outputs=_unpacked(record["outputs"]),
            steps=tuple(int(step) for step in record["steps"]),
            inputs=int(record["inputs"]),
            bound=float(record["bound"]),
            digest=bytes.fromhex(record["digest"]),
            places=int(record["places"]),
            reply_primes=int(record["reply_primes"]),
            reply_bits=int(record["reply_bits"]),
        )
        _check(plan)
    except (KeyError, TypeError, ValueError, zlib.error, ConfigError) as error:
        raise BundleError(
            f"The client specification's encryption is malformed: {error}. Get the bundle again."
        ) from error
    return Sealed(plan=plan)


def _check(plan: ClientPlan) -> None:
    slots = plan.parameters.slots
    if plan.columns.ndim != 2 or plan.columns.shape[1] != slots or plan.outputs.shape != (slots,):
        raise ValueError(f"columns {plan.columns.shape} and outputs {plan.outputs.shape}")
    if plan.columns.min() < -1 or plan.columns.max() >= plan.inputs or plan.outputs.min() < -1:
        raise ValueError("a slot for an input that there is not")
    used = np.unique(plan.outputs[plan.outputs >= 0])
    if not np.array_equal(used, np.arange(len(used))) or len(used) == 0:
        raise ValueError("outputs that are not numbered from 0")
    if not (0 < plan.bound < np.inf and all(0 < step < slots for step in plan.steps)):
        raise ValueError(f"bound={plan.bound}, steps={plan.steps[:4]}")
    if not -64 <= plan.places <= 64:
        raise ValueError(f"places={plan.places}")
    if not 1 <= plan.reply_primes <= plan.parameters.levels + 1:
        raise ValueError(f"reply_primes={plan.reply_primes}")
    if not 0 < plan.reply_bits < sum(plan.parameters.prime_bits[: plan.reply_primes]):
        raise ValueError(f"reply_bits={plan.reply_bits}")
    if len(plan.digest) != 16:
        raise ValueError(f"a digest of {len(plan.digest)} bytes")


def _packed(values: NDArray[np.int64]) -> dict[str, Any]:
    data = zlib.compress(values.astype("<i4").tobytes())
    return {"shape": list(values.shape), "zlib": base64.b64encode(data).decode()}


def _unpacked(record: Mapping[str, Any]) -> NDArray[np.int64]:
    shape = tuple(int(size) for size in record["shape"])
    count = int(np.prod(shape))
    if not 0 < count <= _MOST_INDICES or min(shape) < 1:
        raise ValueError(f"indices of shape {shape}")
    data = base64.b64decode(record["zlib"], validate=True)
    # No more than was stated is ever unpacked, however much a hostile provider packed.
    raw = zlib.decompressobj().decompress(data, 4 * count + 1)
    return np.frombuffer(raw, dtype="<i4").reshape(shape).astype(np.int64)
