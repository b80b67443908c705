"""Split against plain, end to end: one server process, both models, TLS, one client."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

SHAPE, CLASSES = (6, 100), 5


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
    tls = TlsFiles(
        certificate=folder / "certificate.pem", key=folder / "key.pem", self_signed=True
    )
    binding = Binding(port=0, tls=tls, allow_anonymous=True)
    run(models, binding, limits=Limits(rate=1e6, burst=10**6))


def split_against_plain(*, requests: int) -> Iterator[tuple[str, str, float, float, int]]:
    """(metric, unit, split, plain, n): median latency, server CPU and bytes of one query."""
    from load import cpu_seconds

    from reticent.data.task import Kind
    from reticent.inference.channel import TensorSpec
    from reticent.inference.plain.channel import PlainClient
    from reticent.inference.split.client import SplitClient
    from reticent.service.certificate import make_self_signed
    from reticent.service.client import Client
    from reticent.service.remote import Remote
    from reticent.service.serve import running_command
    from reticent.transcript import Transcript

    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        make(folder)
        tls = make_self_signed(folder)
        tls.certificate.rename(folder / "certificate.pem")
        tls.key.rename(folder / "key.pem")
        command = [sys.executable, __file__, "--serve", str(folder)]
        with (
            running_command(command, stderr=folder / "log") as (server, _),
            Client(server.url, verify=folder / "certificate.pem") as client,
        ):
            answer = TensorSpec(name="scores", dtype="float32", shape=(None, CLASSES))
            halves = {
                "split": SplitClient.load(folder / "split" / "client"),
                "plain": PlainClient(answer, Kind.CLASSIFICATION),
            }
            x = np.random.default_rng(1).normal(size=(1, *SHAPE)).astype(np.float32)
            times: dict[str, list[float]] = {"split": [], "plain": []}
            cpu = dict.fromkeys(times, 0.0)
            sizes: dict[str, tuple[int, int]] = {}
            for name, half in halves.items():
                transcript = Transcript()
                Remote(client, name, half).ask(x, transcript=transcript)
                sent = sum(m.size for m in transcript if m.sender == "client")
                back = sum(m.size for m in transcript if m.sender == "server")
                sizes[name] = (sent, back)
            for index in range(requests):
                for name in ("split", "plain") if index % 2 else ("plain", "split"):
                    remote = Remote(client, name, halves[name])
                    before, start = cpu_seconds(server.pid), time.perf_counter()
                    remote.ask(x)
                    times[name].append(time.perf_counter() - start)
                    cpu[name] += cpu_seconds(server.pid) - before
    median = {name: 1e3 * float(np.median(values)) for name, values in times.items()}
    yield "median latency", "ms", median["split"], median["plain"], requests
    spent = {name: 1e6 * value / requests for name, value in cpu.items()}
    yield "server CPU", "us", spent["split"], spent["plain"], requests
    yield "request payload", "bytes", sizes["split"][0], sizes["plain"][0], 1
    yield "reply payload", "bytes", sizes["split"][1], sizes["plain"][1], 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", type=Path, required=True)
    serve(parser.parse_args().serve)
