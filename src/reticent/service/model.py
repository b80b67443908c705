"""A served model: one server half, as the service offers it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reticent.errors import BundleError, ConfigError, InputError
from reticent.guarantee import Guarantee
from reticent.inference.channel import ServerHalf, Tensors, TensorSpec
from reticent.inference.sealed.server import SealedServer
from reticent.service.client_files import CLIENT_DIGEST, ClientListing, read_client_files
from reticent.service.refusal import RefusalError
from reticent.service.wire import BYTES, WireError, datatype_of

KEYS = "reticent.keys"  # V2 parameters: where evaluation keys go, and how large they may be
KEY_BYTES = "reticent.key_bytes"
_HEAD_BYTES = 4096
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """What `create_app` is given for each model.

    `client_files` is a flat folder that clients may download. `cheap` says that an answer takes
    microseconds (a table look-up), so that it may run on the event loop; a real model never may.
    `warmup` is a request to warm up with; without it, zeros as the inputs' specs state.
    """

    name: str
    half: ServerHalf
    version: str = "1"
    channel: str = "split"
    client_files: Path | None = None
    guarantees: tuple[Guarantee, ...] = ()
    cheap: bool = False
    warmup: Tensors | None = None

    def __post_init__(self) -> None:
        for field, value in (("name", self.name), ("version", self.version)):
            if not _NAME.fullmatch(value):
                raise ConfigError(f"Expected letters, digits and ._- only, got {field}={value!r}.")

    @property
    def parallel(self) -> int:
        """How many requests its half answers at once."""
        return self.half.processes if isinstance(self.half, SealedServer) else 1


class LoadedModel:
    """A served model with its client files read and its specs at hand.

    Raises `BundleError` when the client files can't be listed.
    """

    def __init__(self, model: ServedModel, *, batch_rows: int) -> None:
        self.name = model.name
        self.version = model.version
        self.cheap = model.cheap
        self.answer = model.half.answer
        self.keyed = model.half if isinstance(model.half, SealedServer) else None
        self._model = model
        self._batch_rows = batch_rows
        self._inputs = tuple(model.half.inputs)
        self._dtypes = tuple(np.dtype(spec.dtype) for spec in self._inputs)
        self._outputs = tuple(model.half.outputs)
        self.files: Mapping[str, bytes] = {}
        self.listing: ClientListing | None = None
        if model.client_files is not None:
            self.listing, self.files = read_client_files(model.client_files)
        self._digest = "" if self.listing is None else self.listing.digest

    def metadata(self) -> dict[str, Any]:
        """V2 model metadata; ours goes into `parameters`."""
        return {
            "name": self.name,
            "versions": [self.version],
            "platform": f"reticent_{self._model.channel}",
            "inputs": [_v2(spec) for spec in self._inputs],
            "outputs": [_v2(spec) for spec in self._outputs],
            "parameters": {CLIENT_DIGEST: self._digest, **self._key_parameters()},
        }

    @property
    def request_bytes(self) -> int:
        """What one record's request needs at least of the body's limit, where it is large."""
        return 0 if self.keyed is None else self.keyed.most_request_bytes + _HEAD_BYTES

    def close(self) -> None:
        """End what the half runs beside this process."""
        if self.keyed is not None:
            self.keyed.close()

    def _key_parameters(self) -> dict[str, Any]:
        if self.keyed is None:
            return {}
        return {KEYS: f"/v2/models/{self.name}/keys", KEY_BYTES: self.keyed.spool.largest}

    def manifest(self) -> dict[str, Any]:
        """What a client needs to fetch and check its half."""
        if self.listing is None:
            raise RefusalError(404, f"Model {self.name!r} offers no client files.")
        return {
            "model": self.name,
            "version": self.version,
            "channel": self._model.channel,
            "digest": self._digest,
            "files": self.listing.to_json(),
            "guarantees": [guarantee.to_json() for guarantee in self._model.guarantees],
        }

    def check_request(self, tensors: Tensors, parameters: Mapping[str, Any]) -> None:
        """Raise `WireError` unless names, types and shapes are as the half's inputs state.

        Raises `RefusalError` 409 when the client says that it encoded with other client files than
        these: codes of another encoder would be answered, and wrongly.
        """
        claimed = parameters.get(CLIENT_DIGEST)
        if claimed is not None and (
            type(claimed) is not str or len(claimed) < 16 or not self._digest.startswith(claimed)
        ):
            raise RefusalError(
                409,
                f"The client's encoder does not belong to model {self.name!r} version "
                f"{self.version}. Fetch the client files again.",
            )
        if len(tensors) != len(self._inputs):
            raise WireError(f"Expected the inputs {self._names()}, got {len(tensors)} tensors.")
        batch: int | None = None
        for spec, dtype in zip(self._inputs, self._dtypes, strict=True):
            value = tensors.get(spec.name)
            if value is None:
                raise WireError(f"Expected the inputs {self._names()}; {spec.name!r} is missing.")
            if value.dtype != dtype or not _fits(value.shape, spec.shape):
                raise WireError(
                    f"Expected input {spec.name!r} as {_describe(spec)}, "
                    f"got {value.dtype}{list(value.shape)}."
                )
            if spec.shape and spec.shape[0] is None:
                batch = self._check_batch(value.shape[0], batch, spec.name)

    def warm_up(self) -> None:
        """Answer one request, and check the reply against the half's own specs.

        Raises `BundleError` when the half fails or its reply isn't what it states. A half that
        refuses zeros (a ciphertext can't be zero bytes) has run, which is what counts here.
        """
        if self.keyed is not None:
            self.keyed.warm_up()
            return
        request = self._model.warmup
        if request is None:
            if any(np.dtype(spec.dtype) == BYTES for spec in self._inputs):
                return
            request = {
                spec.name: np.zeros(
                    [1 if size is None else size for size in spec.shape], spec.dtype
                )
                for spec in self._inputs
            }
        try:
            reply = self.answer(request)
        except InputError:
            return
        except Exception as error:
            raise BundleError(
                f"The server half of model {self.name!r} failed its warm-up "
                f"({type(error).__name__}). Its parts don't belong together."
            ) from error
        for spec in self._outputs:
            value = reply.get(spec.name)
            if value is None or not spec.matches(value):
                got = "none" if value is None else f"{value.dtype}{list(value.shape)}"
                raise BundleError(
                    f"Expected output {spec.name!r} of model {self.name!r} as {_describe(spec)}, "
                    f"got {got}."
                )

    def _check_batch(self, rows: int, batch: int | None, name: str) -> int:
        if not 0 < rows <= self._batch_rows:
            raise WireError(f"Expected 1 to {self._batch_rows} rows in {name!r}, got {rows}.")
        if batch is not None and rows != batch:
            raise WireError(f"Expected {batch} rows in {name!r} as in the first, got {rows}.")
        return rows

    def _names(self) -> list[str]:
        return [spec.name for spec in self._inputs]


def _fits(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    if len(shape) != len(wanted):
        return False
    for got, want in zip(shape, wanted, strict=True):  # a generator in any() is thrice as slow
        if want is not None and want != got:
            return False
    return True


def _v2(spec: TensorSpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "datatype": datatype_of(spec.dtype),
        "shape": spec.to_json()["shape"],
    }


def _describe(spec: TensorSpec) -> str:
    return f"{spec.dtype}{spec.to_json()['shape']}"
