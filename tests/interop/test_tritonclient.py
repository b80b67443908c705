"""Triton's own client, in its own environment, against our server."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from peers import TRITONCLIENT, environment

from reticent.service.keys import KeyStore
from reticent.service.serve import running_command

HERE = Path(__file__).parent
FAKES = HERE.parent / "service" / "service_fakes.py"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_tritonclient_is_served(tmp_path: Path) -> None:
    sys.path.insert(0, str(FAKES.parent))
    from service_fakes import DenseHalf, TableHalf

    python = environment("tritonclient", TRITONCLIENT)
    key = KeyStore(tmp_path / "keys.json").create("*")
    command = [sys.executable, str(FAKES), "--keys", str(tmp_path / "keys.json")]
    with running_command(command, environment={"OMP_NUM_THREADS": "1"}) as (ready, _):
        done = subprocess.run(
            [str(python), str(HERE / "calls_by_tritonclient.py"), f"127.0.0.1:{ready.port}", key],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == 0, done.stderr[-2000:]
    got = json.loads(done.stdout)
    assert got["live"]
    assert got["ready"]
    assert got["model_ready"]
    assert "binary_tensor_data" in got["extensions"]
    assert got["metadata"]["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 64]}]
    x = np.arange(3 * 64, dtype=np.float32).reshape(3, 64) / 100
    expected = x @ DenseHalf().weight
    assert len(got["logits"]) == 5
    for form, logits in got["logits"].items():
        np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5, err_msg=form)
        assert got["ids"][form] == "q1"
    assert [bytes.fromhex(element) for element in got["bytes"]] == [b"\x00\xff ciphertext", b""]
    np.testing.assert_array_equal(np.array(got["scores"], "<f4"), TableHalf().table[[3, 1]])
    # The client shows our message, so it found it where V2 puts it.
    assert "float32[-1, 64]" in got["wrong shape"]
    assert "API key" in got["no key"]
