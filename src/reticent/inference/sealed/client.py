"""The client half: encoder, keys, encryption and decryption; answers are seen here alone."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reticent.errors import AuditFailedError, BundleError, InputError
from reticent.inference.channel import Tensors, TensorSpec, decode_scores
from reticent.inference.ckks.client import EncryptedClient
from reticent.inference.graph import Graph
from reticent.inference.sealed.release import Sealed
from reticent.inference.split.client import (
    GRAPH_FILE,
    ClientAudit,
    Spec,
    encoded,
    read_spec,
)
from reticent.inference.split.odometer import Odometer

_REQUEST_BYTES = 8 << 20


class SealedClient:
    """Encodes in the clear, sends ciphertexts, decrypts the replies.

    Fresh keys are made at the first use, and again when they have answered `most_queries`:
    `public_keys` has to reach the server before a request under them is answered, and a reply
    under older ones can't be read any more.
    """

    def __init__(
        self,
        spec: Spec,
        graph: Graph,
        *,
        odometer: Odometer | None = None,
        user: str = "default",
        most_queries: int = 10_000,
    ) -> None:
        if graph.shape != spec.shape:
            raise BundleError(
                f"The encoder takes shape={graph.shape}, its specification says {spec.shape}."
            )
        if not isinstance(spec.release, Sealed):
            raise BundleError("Expected the client files of a sealed split, got a split's.")
        self.spec = spec
        self.graph = graph
        self._release = spec.release
        self._odometer, self._user = odometer, user
        self._most_queries = most_queries
        self._encrypted: EncryptedClient | None = None

    @classmethod
    def load(
        cls, folder: Path, *, odometer: Odometer | None = None, user: str = "default"
    ) -> SealedClient:
        """The client half in `folder`. Raises `BundleError` when a file is missing or malformed."""
        spec = read_spec(folder)
        return cls(spec, Graph(folder / GRAPH_FILE), odometer=odometer, user=user)

    @property
    def public_keys(self) -> bytes:
        """What the server needs, once, before the first request."""
        return self._keys.public_keys

    @property
    def rows_at_once(self) -> int:
        """Records per request, so that it stays within `_REQUEST_BYTES` and what keys answer."""
        return min(max(1, _REQUEST_BYTES // self._release.request_bytes), self._most_queries)

    @property
    def _keys(self) -> EncryptedClient:
        if self._encrypted is None:
            self._encrypted = EncryptedClient(self._release.plan, most_queries=self._most_queries)
        return self._encrypted

    def features(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Features (n, d) as they are encrypted, clipped to what the network was checked for; a
        warning says how many records that changed.
        """
        features = encoded(self.graph, x, self._release.size)
        made = self._release.clipped(features)
        beyond = int((made != features).any(axis=1).sum())
        if beyond:
            warnings.warn(
                f"{beyond} of {len(features)} records have values beyond "
                f"{self._release.plan.bound:g}, for which the network was not checked: they are "
                "clipped to it.",
                stacklevel=3,
            )
        return made

    def encode(self, x: NDArray[np.float32]) -> Tensors:
        """The request for inputs (batch, *shape): one encrypted record each."""
        features = self.features(x)
        if len(features) > self._most_queries:
            raise InputError(
                f"Expected at most most_queries={self._most_queries} records at once, got "
                f"n={len(features)}."
            )
        if self._odometer is not None:
            self._odometer.charge(self._user, requests=len(features), bits=0.0, nats=0.0)
        if len(features) > self._keys.left:
            self._keys.rotate()
        made = np.empty(len(features), dtype=object)
        for place, each in enumerate(features):
            made[place] = self._keys.encrypt(each)
        return {self._release.spec.name: made}

    def scores(self, reply: Tensors) -> NDArray[np.float32]:
        """Decrypted scores (batch, outputs). Raises `EvidenceError` for replies that are none."""
        spec: TensorSpec = self._release.reply
        sealed = reply.get(spec.name)
        if sealed is None or not spec.matches(sealed) or len(sealed) == 0:
            raise BundleError(
                f"Expected a reply {spec}, got {sorted(reply)}. "
                "The client and server halves may be of different versions."
            )
        if not all(isinstance(each, bytes) for each in sealed):
            raise BundleError("Expected encrypted answers as bytes.")
        return np.stack([self._keys.decrypt(each) for each in sealed]).astype(np.float32)

    def decode(self, reply: Tensors) -> NDArray[Any]:
        """Answers (batch,): class indices."""
        answer = self.spec.answer
        return decode_scores({answer.name: self.scores(reply)}, answer, self.spec.kind)

    def audit(self, x: NDArray[np.float32]) -> ClientAudit:
        """Check on two or more of one's own inputs that requests tell nothing by their size.

        Whatever the encoder does stays under encryption, so that little is left to check.
        """
        if len(x) < 2:
            raise InputError(f"Expected two inputs or more to audit with, got n={len(x)}.")
        features = self.features(x)
        trial = EncryptedClient(self._release.plan)
        sizes = {len(trial.encrypt(each)) for each in features[:8]}
        found = ClientAudit(
            n=len(x),
            bits=0.0,
            nats_beyond_label=0.0,
            constant_size=len(sizes) == 1,
            deterministic=bool(np.array_equal(features, self.features(x))),
            batch_invariant=bool(
                np.allclose(features[:1], self.features(x[:1]), atol=1e-3, rtol=1e-3)
            ),
            largest_radius=None,
            agreement=None,
        )
        if not found.constant_size:
            raise AuditFailedError(
                f"Requests are of {len(sizes)} different sizes, which depend on the input or on "
                "chance. Don't use it."
            )
        return found
