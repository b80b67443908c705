"""How long one query takes in process, on one thread: computation alone, no network."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from reticent.audit.scorecard import Latency
from reticent.inference.deployed import local_pair
from reticent.inference.export import export
from reticent.inference.graph import Graph
from reticent.inference.split.harden import Hardened
from reticent.inference.split.publish import publish
from reticent.pipeline.stage import Stage


def latency(stage: Stage, folder: Path) -> Latency:
    """Medians of the model undefended, of the bundle at `folder`, and of its server alone."""
    x = stage.records("test").x[:1]
    client, server = local_pair(folder)
    with tempfile.TemporaryDirectory() as work:
        path = Path(work) / "plain.onnx"
        export(stage.model, torch.from_numpy(x), path)
        plain = Graph(path)
    request = client.encode(x)
    return Latency(
        plain=_median_ms(lambda: plain(x)),
        protected=_median_ms(lambda: client.decode(server.answer(client.encode(x)))),
        server=_median_ms(lambda: server.answer(request)),
    )


def server_ms(stage: Stage, hardened: Hardened) -> float:
    """The median of the server's half, published into a folder that is then deleted."""
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        publish(folder, hardened, stage.task, name="measured")
        client, server = local_pair(folder)
        request = client.encode(stage.records("test").x[:1])
        return _median_ms(lambda: server.answer(request))


def _median_ms(call: Callable[[], object], *, repeats: int = 200, seconds: float = 5.0) -> float:
    times: list[float] = []
    while len(times) < repeats and (len(times) < 5 or sum(times) < seconds):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return float(np.median(times) * 1000)
