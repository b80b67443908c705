"""A remote deployment: the client half here, the server half behind a `Client`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from reticent.errors import BundleError
from reticent.inference.channel import ClientHalf
from reticent.service.client import Client
from reticent.service.client_files import CLIENT_DIGEST
from reticent.transcript import Transcript


class Remote:
    """`ask(x)` as `reticent.inference.channel.ask`, with the server at the other end of a wire.

    `client_digest` is the digest of the files that `half` was loaded from. It travels with each
    request, the same for every client, so that a server whose half belongs to another encoder
    refuses instead of answering nonsense. Without it that can't be noticed.
    """

    def __init__(
        self, client: Client, model: str, half: ClientHalf, *, client_digest: str | None = None
    ) -> None:
        self._client = client
        self._model = model
        self._half = half
        self._parameters = {} if client_digest is None else {CLIENT_DIGEST: client_digest[:16]}
        self._client_digest = client_digest

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
        request = self._half.encode(x)
        reply = self._client.infer(
            self._model, request, parameters=self._parameters, transcript=transcript
        )
        answers = self._half.decode(reply)
        if len(answers) != len(x):
            raise BundleError(f"Expected {len(x)} answers, got {len(answers)}.")
        return answers
