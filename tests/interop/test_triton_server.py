"""Our client against a real Triton server, started from NVIDIA's wheel."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from peers import triton_environment, triton_server

from reticent.service.client import Client, RequestRefusedError, ServiceError
from reticent.service.wire import DATATYPES

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "service"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    home = triton_server()
    folder = tmp_path_factory.mktemp("triton")
    shutil.copytree(HERE / "triton_models", folder / "models")
    server = home / "pytriton" / "tritonserver"
    port = free_port()
    command = [
        str(server / "bin" / "tritonserver"),
        *("--model-repository", str(folder / "models")),
        *("--backend-directory", str(server / "backends")),
        *("--http-address=127.0.0.1", f"--http-port={port}"),
        *("--allow-grpc=false", "--allow-metrics=false", "--exit-on-error=false"),
    ]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env=triton_environment(home), cwd=folder
        )
        try:
            wait_ready(process, f"http://127.0.0.1:{port}", folder / "log")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(60)


def wait_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    until = time.monotonic() + 90
    with Client(url) as client:
        while time.monotonic() < until and process.poll() is None:
            try:
                if client.ready():
                    return
            except ServiceError:
                pass
            time.sleep(0.2)
    pytest.fail(f"Triton did not get ready:\n{log.read_text()[-3000:]}")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_our_client_reads_tritons_metadata(triton: str) -> None:
    with Client(triton) as client:
        assert client.live()
        assert client.metadata()["name"] == "triton"
        assert "binary_tensor_data" in client.metadata()["extensions"]
        assert client.ready("dense")
        assert client.metadata("dense")["inputs"][0]["datatype"] == "FP32"
        assert not client.ready("none")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_our_client_gets_the_numbers_that_our_own_server_gives(triton: str) -> None:
    from service_fakes import DenseHalf

    rng = np.random.default_rng(0)
    with Client(triton) as client:
        for rows in (1, 3, 1000):
            x = rng.normal(size=(rows, 64)).astype(np.float32)
            logits = client.infer("dense", {"x": x})["logits"]
            expected = DenseHalf().answer({"x": x})["logits"]
            np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_type_comes_back_as_it_went(triton: str) -> None:
    """Triton is the judge of our byte order, head padding and BYTES framing."""
    rng = np.random.default_rng(1)
    tensors = {}
    for name, dtype in DATATYPES.items():
        key = "string" if name == "BYTES" else name.lower()
        if name == "BYTES":
            tensors[key] = np.array([b"\x00\xff cipher", b"", b"z" * 5000], dtype=object)
        elif dtype.kind == "b":
            tensors[key] = np.array([True, False, True])
        elif dtype.kind == "f":
            tensors[key] = rng.normal(size=7).astype(dtype)
        else:
            info = np.iinfo(dtype)
            tensors[key] = np.array([info.min, 1, info.max], dtype=dtype)
    with Client(triton) as client:
        reply = client.infer("echo", tensors)
    assert len(reply) == len(DATATYPES)
    for key, value in tensors.items():
        assert reply[f"out_{key}"].dtype == value.dtype
        np.testing.assert_array_equal(reply[f"out_{key}"], value)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_tritons_refusals_are_told(triton: str) -> None:
    with Client(triton) as client:
        for model, name in (("dense", "y"), ("none", "x")):
            with pytest.raises(RequestRefusedError):
                client.infer(model, {name: np.zeros((1, 64), np.float32)})
