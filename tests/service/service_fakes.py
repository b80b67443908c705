"""Small server halves, and a server process to put them in."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

from reticent.errors import DataError
from reticent.inference.channel import Tensors, TensorSpec
from reticent.service.certificate import TlsFiles
from reticent.service.keys import KeyStore
from reticent.service.limits import Limits
from reticent.service.model import ServedModel
from reticent.service.serve import Binding, serve

CODES = 200
CLASSES = 6


class TableHalf:
    """Label codes in, one row of a table out: the shape of a real code channel."""

    inputs = (TensorSpec(name="code", dtype="uint8", shape=(None,)),)
    outputs = (TensorSpec(name="scores", dtype="float32", shape=(None, CLASSES)),)

    def __init__(self) -> None:
        self.table = np.random.default_rng(7).normal(size=(CODES, CLASSES)).astype(np.float32)

    def answer(self, request: Tensors) -> Tensors:
        code = request["code"]
        if code.max() >= CODES:
            raise DataError(f"Expected codes below {CODES}. The encoder belongs to another server.")
        return {"scores": self.table[code]}


class DenseHalf:
    """64 features in, logits out; two inputs' worth of types for the shape checks."""

    inputs = (TensorSpec(name="x", dtype="float32", shape=(None, 64)),)
    outputs = (TensorSpec(name="logits", dtype="float32", shape=(None, 10)),)

    def __init__(self) -> None:
        self.weight = np.random.default_rng(8).normal(size=(64, 10)).astype(np.float32)

    def answer(self, request: Tensors) -> Tensors:
        return {"logits": request["x"] @ self.weight}


class SlowHalf(DenseHalf):
    """Takes `x[0, 0]` seconds, so that a test decides."""

    def answer(self, request: Tensors) -> Tensors:
        time.sleep(float(request["x"][0, 0]))
        return super().answer(request)


class BrokenHalf(DenseHalf):
    """Fails on requests (not on the warm-up's zeros) with the input in the message."""

    def answer(self, request: Tensors) -> Tensors:
        if request["x"].any():
            raise RuntimeError(f"features {request['x'][0, :3].tolist()} upset me")
        return super().answer(request)


class EchoHalf:
    """BYTES in, the same BYTES out: what carries ciphertexts."""

    inputs = (TensorSpec(name="cipher", dtype="object", shape=(None,)),)
    outputs = (TensorSpec(name="cipher", dtype="object", shape=(None,)),)

    def answer(self, request: Tensors) -> Tensors:
        return {"cipher": request["cipher"]}


def fake_models(client_files: Path | None = None) -> dict[str, ServedModel]:
    """All of them, by name."""
    models = (
        ServedModel(name="table", half=TableHalf(), cheap=True, client_files=client_files),
        ServedModel(name="dense", half=DenseHalf(), channel="plain"),
        ServedModel(name="slow", half=SlowHalf()),
        ServedModel(name="broken", half=BrokenHalf()),
        ServedModel(name="echo", half=EchoHalf(), channel="ckks"),
    )
    return {model.name: model for model in models}


def main() -> None:
    """Serve the fakes as the arguments say; the ready line goes to standard output."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--keys", type=Path)
    parser.add_argument("--tls", type=Path)
    parser.add_argument("--client-files", type=Path)
    parser.add_argument("--limits", type=json.loads, default={})
    parser.add_argument("--port", type=int, default=0)
    given = parser.parse_args()
    tls = None
    if given.tls is not None:
        tls = TlsFiles(
            certificate=given.tls / "certificate.pem", key=given.tls / "key.pem", self_signed=True
        )
    keys = None if given.keys is None else KeyStore(given.keys, reload_seconds=0.1)
    serve(
        fake_models(given.client_files),
        Binding(port=given.port, tls=tls, keys=keys, allow_anonymous=keys is None),
        limits=Limits(**given.limits),
    )


if __name__ == "__main__":
    main()
