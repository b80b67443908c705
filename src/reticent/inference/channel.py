"""The one shape of every way to answer a query: encode, answer, decode.

`client.encode(x) -> request`, `server.answer(request) -> reply`, `client.decode(reply) -> y`.
Requests and replies are named arrays, so any channel travels over the same wire.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from reticent.data.task import Kind
from reticent.errors import BundleError
from reticent.guarantee import CLIENT, SERVER
from reticent.transcript import Transcript

Tensors = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """One named array of a request or reply; None in `shape` is the batch dimension."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]

    def matches(self, value: NDArray[Any]) -> bool:
        """Whether `value` has this dtype and shape."""
        return (
            value.dtype == np.dtype(self.dtype)
            and value.ndim == len(self.shape)
            and all(
                want is None or want == got
                for want, got in zip(self.shape, value.shape, strict=True)
            )
        )

    def to_json(self) -> dict[str, Any]:
        """A JSON object: name, dtype, shape with -1 for the batch."""
        return {
            "name": self.name,
            "dtype": self.dtype,
            "shape": [-1 if size is None else size for size in self.shape],
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> TensorSpec:
        """The spec that `to_json` wrote. Raises `BundleError` for anything else."""
        try:
            np.dtype(record["dtype"])
            sizes = [int(size) for size in record["shape"]]
            if not isinstance(record["name"], str) or any(size < -1 for size in sizes):
                raise ValueError(f"name={record['name']!r}, shape={sizes}")
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError(f"Expected a tensor's name, dtype and shape: {error!r}") from error
        return cls(
            name=record["name"],
            dtype=record["dtype"],
            shape=tuple(None if size == -1 else size for size in sizes),
        )


class ClientHalf(Protocol):
    """What runs on the client's machine."""

    def encode(self, x: NDArray[np.float32]) -> Tensors:
        """The request for inputs of shape (batch, ...)."""

    def decode(self, reply: Tensors) -> NDArray[Any]:
        """The answers, shape (batch, ...), from the server's reply."""


@runtime_checkable
class KeyedClientHalf(ClientHalf, Protocol):
    """A client half whose server needs evaluation keys before the first request."""

    @property
    def public_keys(self) -> bytes:
        """What the server is given once; nothing secret is in it."""

    @property
    def rows_at_once(self) -> int:
        """How many records one request should hold, so that it stays within usual limits."""


class ServerHalf(Protocol):
    """What runs on the server; it never sees the client half's code or keys."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The arrays that a request must hold."""

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The arrays that a reply holds."""

    def answer(self, request: Tensors) -> Tensors:
        """The reply; raises `InputError` for values outside what the channel allows."""


def decode_scores(reply: Tensors, answer: TensorSpec, kind: Kind) -> NDArray[Any]:
    """Answers from a reply's scores (batch, outputs): class indices, or values for regression.

    Raises `BundleError` for a reply of another name, type or shape, or with NaN or infinity.
    """
    scores = reply.get(answer.name)
    if scores is None or not answer.matches(scores):
        raise BundleError(
            f"Expected a reply {answer}, got {sorted(reply)}. "
            "The client and server halves may be of different versions."
        )
    if not np.isfinite(scores).all():
        raise BundleError("The reply holds NaN or infinity.")
    if kind is Kind.REGRESSION:
        return np.asarray(scores[:, 0])
    return np.asarray(scores.argmax(axis=1))


def ask(
    client: ClientHalf,
    server: ServerHalf,
    x: NDArray[np.float32],
    *,
    transcript: Transcript | None = None,
) -> NDArray[Any]:
    """One query in process, client to server and back; what crosses is written to `transcript`."""
    request = client.encode(x)
    reply = server.answer(request)
    if transcript is not None:
        for name, value in request.items():
            transcript.record(CLIENT.name, SERVER.name, name, value)
        for name, value in reply.items():
            transcript.record(SERVER.name, CLIENT.name, name, value)
    return client.decode(reply)
