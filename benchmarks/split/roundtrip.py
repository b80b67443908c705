"""Split against plain, end to end: one server process, both models, TLS, one client."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

SHAPE, CLASSES = (6, 100), 5
CERTIFICATE = "certificate.pem"


def make(folder: Path) -> None:
    """A small trained network, published split and exported whole, into `folder`."""
    import torch

    import reticent
    from reticent.inference.export import export
    from reticent.models.networks import build

    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    public = rng.integers(0, CLASSES, 600)
    x = rng.normal(size=(600, *SHAPE)).astype(np.float32)
    x += np.eye(SHAPE[1])[public * 10][:, None, :].astype(np.float32) * 8
    task = reticent.Task(
        name="pulses",
        x=x,
        public=public,
        private={"shade": rng.integers(0, 2, 600)},
        synthetic=True,
    )
    model = build("convnet1d", shape=SHAPE, outputs=CLASSES, x=x)
    deployment = reticent.harden(model, task, method="adapter_code", cut="conv1", epochs=2)
    deployment.publish(folder / "split", name="split")
    export(model, torch.from_numpy(x[:1]), folder / "plain.onnx")


def serve(folder: Path) -> None:
    """Both models in one service process; announces itself on standard output."""
    from reticent.inference.bundle import load
    from reticent.inference.channel import TensorSpec
    from reticent.inference.plain.channel import PlainServer
    from reticent.service.certificate import TlsFiles
    from reticent.service.deployments import served
    from reticent.service.limits import Limits
    from reticent.service.model import ServedModel
    from reticent.service.serve import Binding
    from reticent.service.serve import serve as run

    answer = TensorSpec(name="scores", dtype="float32", shape=(None, CLASSES))
    whole = PlainServer.load(folder / "plain.onnx", answer)
    models = {
        **served([load(folder / "split")]),
        "plain": ServedModel(name="plain", half=whole, channel="plain"),
    }
    tls = TlsFiles(certificate=folder / CERTIFICATE, key=folder / "key.pem", self_signed=True)
    binding = Binding(port=0, tls=tls, allow_anonymous=True)
    run(models, binding, limits=Limits(rate=1e6, burst=10**6))


def split_against_plain(*, requests: int) -> Iterator[tuple[str, str, float, float, int]]:
    """(metric, unit, split, plain, n): latency, server CPU and bytes of one query over TLS."""
    from load import cpu_seconds, latency_and_bytes

    from reticent.data.task import Kind
    from reticent.inference.channel import TensorSpec
    from reticent.inference.plain.channel import PlainClient
    from reticent.inference.split.client import SplitClient
    from reticent.service.certificate import make_self_signed
    from reticent.service.client import Client
    from reticent.service.remote import Remote
    from reticent.service.serve import running_command

    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        make(folder)
        make_self_signed(folder)
        command = [sys.executable, __file__, "--serve", str(folder)]
        answer = TensorSpec(name="scores", dtype="float32", shape=(None, CLASSES))
        halves = {
            "split": SplitClient.load(folder / "split" / "client"),
            "plain": PlainClient(answer, Kind.CLASSIFICATION),
        }
        deployments = {name: (name, half) for name, half in halves.items()}
        x = np.random.default_rng(1).normal(size=(1, *SHAPE)).astype(np.float32)
        authority = folder / CERTIFICATE
        with running_command(command, stderr=folder / "log") as (server, _):
            found = latency_and_bytes(server.url, deployments, x, verify=authority, rounds=requests)
            spent = {}
            with Client(server.url, verify=authority) as client:
                for name, half in halves.items():
                    remote = Remote(client, name, half)
                    remote.ask(x)
                    before = cpu_seconds(server.pid)
                    for _ in range(requests):
                        remote.ask(x)
                    spent[name] = 1e6 * (cpu_seconds(server.pid) - before) / requests
    for metric, unit in (
        ("p50_ms", "ms"),
        ("p99_ms", "ms"),
        ("request_bytes", "bytes"),
        ("reply_bytes", "bytes"),
    ):
        yield metric, unit, found["split"][metric], found["plain"][metric], requests
    yield "server CPU", "us", spent["split"], spent["plain"], requests


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", type=Path, required=True)
    serve(parser.parse_args().serve)
