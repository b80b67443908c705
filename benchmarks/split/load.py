"""What the service costs: server CPU per request against a bare Starlette V2 endpoint.

Both answer with the same table look-up, in processes of their own, up at the same time and pinned
to one core; the load comes from another core, in alternating blocks, so that whatever else the
machine does falls on both. CPU is the kernel's count for the server's threads, not a clock.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

CLASSES = 6
CODES = 64
BLOCK = 500


class Table:
    """The head under both servers: codes (n,) uint8 to scores (n, CLASSES) float32."""

    def __init__(self) -> None:
        from reticent.inference.channel import TensorSpec

        self.inputs = (TensorSpec(name="code", dtype="uint8", shape=(None,)),)
        self.outputs = (TensorSpec(name="scores", dtype="float32", shape=(None, CLASSES)),)
        self._table = np.random.default_rng(0).normal(size=(CODES, CLASSES)).astype(np.float32)

    def answer(self, request: Any) -> dict[str, NDArray[np.float32]]:
        """One row per code."""
        code = request["code"]
        if code.max() >= CODES:
            from reticent.errors import DataError

            raise DataError(f"Expected codes below {CODES}.")
        return {"scores": self._table[code]}


def serve_ours(announce: Any) -> None:
    """Our service with a key store, limits and metrics, as it is run in earnest."""
    import tempfile

    from reticent.service.keys import KeyStore
    from reticent.service.limits import Limits
    from reticent.service.model import ServedModel
    from reticent.service.serve import Binding, serve

    with tempfile.TemporaryDirectory() as folder:
        store = KeyStore(Path(folder) / "keys.json")
        print(json.dumps({"key": store.create("*")}), file=announce, flush=True)
        serve(
            {"table": ServedModel(name="table", half=Table(), cheap=True)},
            Binding(port=0, keys=store),
            limits=Limits(rate=1e6, burst=10**6),
            announce=announce,
        )


def serve_bare(announce: Any) -> None:
    """The shortest Starlette V2 endpoint: no checks, keys, limits or metrics."""
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    head = Table()

    async def infer(request: Request) -> Response:
        body = await request.body()
        length = int(request.headers["inference-header-content-length"])
        document = json.loads(body[:length])
        entry = document["inputs"][0]
        code = np.frombuffer(body, np.uint8, offset=length).reshape(entry["shape"])
        scores = head.answer({"code": code})["scores"]
        raw = scores.tobytes()
        output = {
            "name": "scores",
            "datatype": "FP32",
            "shape": list(scores.shape),
            "parameters": {"binary_data_size": len(raw)},
        }
        reply = {"model_name": "table", "model_version": "1", "outputs": [output]}
        top = json.dumps(reply).encode()
        headers = {"inference-header-content-length": str(len(top))}
        return Response(top + raw, headers=headers, media_type="application/octet-stream")

    app = Starlette(routes=[Route("/v2/models/{model}/infer", infer, methods=["POST"])])
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    line = {"event": "ready", "port": listener.getsockname()[1], "pid": os.getpid()}
    print(json.dumps({"key": "none"}), file=announce)
    print(json.dumps(line), file=announce, flush=True)
    config = uvicorn.Config(app, access_log=False, log_level="warning", server_header=False)
    uvicorn.Server(config).run(sockets=[listener])


@contextlib.contextmanager
def server(kind: str, core: int | None) -> Iterator[tuple[int, int, str]]:
    """A server process: its port, process id and key."""
    command = [sys.executable, __file__, "--serve", kind]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        if core is not None:
            os.sched_setaffinity(process.pid, {core})
        assert process.stdout is not None
        key = json.loads(process.stdout.readline())["key"]
        ready = json.loads(process.stdout.readline())
        yield ready["port"], ready["pid"], key
    finally:
        process.terminate()
        process.wait()


def cpu_seconds(pid: int) -> float:
    """Time on a core so far, user and system, of all threads of a process."""
    nanoseconds = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        nanoseconds += int((task / "schedstat").read_text().split()[0])
    return nanoseconds * 1e-9


def http_request(code: NDArray[np.uint8], key: str) -> bytes:
    """One whole V2 binary request, as it goes over the socket."""
    from reticent.service.wire import encode_request

    body, length = encode_request({"code": code})
    return (
        b"POST /v2/models/table/infer HTTP/1.1\r\nhost: localhost\r\n"
        b"authorization: Bearer %b\r\ncontent-type: application/octet-stream\r\n"
        b"inference-header-content-length: %d\r\ncontent-length: %d\r\n\r\n%b"
        % (key.encode(), length, len(body), body)
    )


def drive(port: int, request: bytes, *, requests: int, connections: int) -> list[float]:
    """Send `requests`, one in flight per connection; the latencies in seconds. All must be 200."""
    selector = selectors.DefaultSelector()
    sockets = [socket.create_connection(("127.0.0.1", port)) for _ in range(connections)]
    size = _first_reply(sockets[0], request)
    started: dict[socket.socket, float] = {}
    received = dict.fromkeys(sockets, 0)
    latencies: list[float] = []
    sent = 0
    for connection in sockets:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        selector.register(connection, selectors.EVENT_READ)
        started[connection] = time.perf_counter()
        connection.sendall(request)
        sent += 1
    while len(latencies) < requests:
        for ready, _ in selector.select():
            connection = ready.fileobj
            assert isinstance(connection, socket.socket)
            chunk = connection.recv(65536)
            if not received[connection] and not chunk.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(f"Expected 200, got {chunk[:40]!r}.")
            received[connection] += len(chunk)
            if received[connection] < size:
                continue
            latencies.append(time.perf_counter() - started[connection])
            received[connection] = 0
            if sent < requests:
                sent += 1
                started[connection] = time.perf_counter()
                connection.sendall(request)
    for connection in sockets:
        connection.close()
    return latencies


def _first_reply(connection: socket.socket, request: bytes) -> int:
    """The length of a reply: all are equally long."""
    connection.sendall(request)
    reply = b""
    while b"\r\n\r\n" not in reply:
        reply += connection.recv(65536)
    head = reply.index(b"\r\n\r\n") + 4
    match = re.search(rb"content-length: (\d+)", reply[:head])
    assert match is not None
    size = head + int(match[1])
    while len(reply) < size:
        reply += connection.recv(65536)
    return size


def cpu_per_request(*, requests: int = 10_000, connections: int = 8) -> dict[str, Any]:
    """Server CPU microseconds per request, ours and bare, and their ratio (above 1: we cost more).

    The medians over blocks; `spread` is the interquartile range of the block-wise ratios.
    """
    cores = sorted(os.sched_getaffinity(0))
    server_core, client_core = (cores[0], cores[-1]) if len(cores) > 1 else (None, None)
    code = np.arange(4, dtype=np.uint8)
    with server("ours", server_core) as ours, server("bare", server_core) as bare:
        if client_core is not None:
            os.sched_setaffinity(0, {client_core})
        plans = {
            "ours": (ours[0], ours[1], http_request(code, ours[2])),
            "bare": (bare[0], bare[1], http_request(code, bare[2])),
        }
        spent: dict[str, list[float]] = {"ours": [], "bare": []}
        latency: dict[str, list[float]] = {"ours": [], "bare": []}
        for block in range(max(2, requests // BLOCK) + 1):
            order = ("ours", "bare") if block % 2 else ("bare", "ours")
            for name in order:
                port, pid, request = plans[name]
                before = cpu_seconds(pid)
                taken = drive(port, request, requests=BLOCK, connections=connections)
                cost = (cpu_seconds(pid) - before) / (BLOCK + 1)
                if block:  # the first block warms both up
                    spent[name].append(1e6 * cost)
                    latency[name] += taken
    os.sched_setaffinity(0, set(cores))
    ratios = np.array(spent["ours"]) / np.array(spent["bare"])
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    return {
        "ours_us": round(float(np.median(spent["ours"])), 1),
        "bare_us": round(float(np.median(spent["bare"])), 1),
        "ratio": round(float(middle), 3),
        "spread": [round(float(low), 3), round(float(high), 3)],
        "ours_p50_ms": round(1e3 * float(np.median(latency["ours"])), 3),
        "bare_p50_ms": round(1e3 * float(np.median(latency["bare"])), 3),
        "requests": BLOCK * len(ratios),
        "connections": connections,
    }


def latency_and_bytes(
    url: str,
    deployments: Mapping[str, tuple[str, Any]],
    x: NDArray[np.float32],
    *,
    api_key: str | None = None,
    verify: Path | bool = True,
    rounds: int = 200,
) -> dict[str, dict[str, float]]:
    """End-to-end cost of each way to ask one server: encode, send, answer, decode.

    `deployments` maps a label to (model name, client half); every round asks each of them once
    for the same `x`, shape (batch, ...), in turn. Latencies in ms (median and 99th percentile),
    bytes of request and reply as HTTP bodies.
    """
    from reticent.service.client import Client
    from reticent.service.remote import Remote
    from reticent.service.wire import Codec, encode_request

    codec = Codec()
    taken: dict[str, list[float]] = {label: [] for label in deployments}
    sizes: dict[str, tuple[int, int]] = {}
    with Client(url, api_key=api_key, verify=verify) as client:
        remotes = {
            label: Remote(client, model, half) for label, (model, half) in deployments.items()
        }
        for label, (model, half) in deployments.items():
            request, length = encode_request(half.encode(x))
            reply = client.infer(model, half.encode(x))
            asked = codec.decode_request(request, length)
            answered, _ = codec.encode_reply(reply, asked, model=model, version="1")
            sizes[label] = (len(request), len(answered))
        for _ in range(rounds):
            for label, remote in remotes.items():
                began = time.perf_counter()
                remote.ask(x)
                taken[label].append(1e3 * (time.perf_counter() - began))
    return {
        label: {
            "p50_ms": round(float(np.median(times)), 3),
            "p99_ms": round(float(np.quantile(times, 0.99)), 3),
            "request_bytes": sizes[label][0],
            "reply_bytes": sizes[label][1],
        }
        for label, times in taken.items()
    }


def main() -> None:
    """Print one JSON object per number of connections."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", choices=("ours", "bare"))
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 8])
    given = parser.parse_args()
    if given.serve == "ours":
        serve_ours(sys.stdout)
    elif given.serve == "bare":
        serve_bare(sys.stdout)
    else:
        for connections in given.connections:
            measured = cpu_per_request(requests=given.requests, connections=connections)
            print(json.dumps(measured), flush=True)


if __name__ == "__main__":
    main()
