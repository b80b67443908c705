"""A remote deployment: the client half here, the server half behind a `Client`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from reticent.errors import BundleError
from reticent.inference.channel import ClientHalf, KeyedClientHalf, Tensors
from reticent.service.client import Client, RequestRefusedError
from reticent.service.client_files import CLIENT_DIGEST
from reticent.transcript import Transcript

_NO_KEYS = 409


class Remote:
    """`ask(x)` as `reticent.inference.channel.ask`, with the server at the other end of a wire.

    `client_digest` is the digest of the files that `half` was loaded from. It travels with each
    request, the same for every client, so that a server whose half belongs to another encoder
    refuses instead of answering nonsense. Without it that can't be noticed. A half with evaluation
    keys has them uploaded before its first request, and again when the server has evicted them.
    """

    def __init__(
        self, client: Client, model: str, half: ClientHalf, *, client_digest: str | None = None
    ) -> None:
        self._client = client
        self._model = model
        self._half = half
        self._parameters = {} if client_digest is None else {CLIENT_DIGEST: client_digest[:16]}
        self._client_digest = client_digest
        self._keys: bytes | None = None

    def check(self) -> None:
        """Raise `BundleError` when the server's half belongs to another encoder than ours."""
        stated = self._client.metadata(self._model).get("parameters", {}).get(CLIENT_DIGEST)
        if self._client_digest is not None and stated != self._client_digest:
            raise BundleError(
                f"Expected a server half for client files {self._client_digest[:16]}, "
                f"got {str(stated)[:16]!r}. Fetch the client files again."
            )

    def ask(self, x: NDArray[np.float32], *, transcript: Transcript | None = None) -> NDArray[Any]:
        """The answers for inputs of shape (batch, ...); raises as `Client.infer` does."""
        half = self._half
        rows = half.rows_at_once if isinstance(half, KeyedClientHalf) else max(1, len(x))
        parts = [x[at : at + rows] for at in range(0, len(x), rows)] or [x]
        return np.concatenate([self._ask(part, transcript) for part in parts])

    def _ask(self, x: NDArray[np.float32], transcript: Transcript | None) -> NDArray[Any]:
        request = self._half.encode(x)
        if isinstance(self._half, KeyedClientHalf):
            reply = self._with_keys(self._half, request, transcript)
        else:
            reply = self._infer(request, transcript)
        answers = self._half.decode(reply)
        if len(answers) != len(x):
            raise BundleError(f"Expected {len(x)} answers, got {len(answers)}.")
        return answers

    def _with_keys(
        self, half: KeyedClientHalf, request: Tensors, transcript: Transcript | None
    ) -> Tensors:
        if self._keys != half.public_keys:
            self._upload(half, transcript)
        try:
            return self._infer(request, transcript)
        except RequestRefusedError as error:
            if error.status != _NO_KEYS:
                raise
        self._upload(half, transcript)
        return self._infer(request, transcript)

    def _upload(self, half: KeyedClientHalf, transcript: Transcript | None) -> None:
        self._client.upload_keys(self._model, half.public_keys, transcript=transcript)
        self._keys = half.public_keys

    def _infer(self, request: Tensors, transcript: Transcript | None) -> Tensors:
        return self._client.infer(
            self._model, request, parameters=self._parameters, transcript=transcript
        )
