"""A new user's way with ciphertexts: harden, serve with TLS and a key, query, from the shell."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from reticent.data import load
from reticent.service.serve import running_command

RECIPE = Path(__file__).parents[2] / "recipes" / "hospital-encrypted.toml"
RETICENT = (sys.executable, "-m", "reticent.cli")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_hospitals_recipe_is_served_and_asked(tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def run(*arguments: str, **more: str) -> str:
        done = subprocess.run(
            [*RETICENT, *arguments],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
            env={**environment, **more},
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    run("harden", str(RECIPE), "--out", "bundle")
    task = load("breast-cancer")
    rows = np.arange(0, 569, 60)
    np.savez(tmp_path / "records.npz", x=task.x[rows])
    log = tmp_path / "log"
    serve = [*RETICENT, "serve", str(tmp_path / "bundle"), "--port", "0", "--processes", "1"]
    command = [*serve, "--out", str(tmp_path / "service")]
    with running_command(command, stderr=log, environment={"OMP_NUM_THREADS": "1"}) as (ready, _):
        assert ready.tls == "self-signed"
        found = re.search(r"rk_[0-9a-f]{16}\.[A-Za-z0-9_-]{43}", log.read_text())
        assert found is not None
        told = run(
            "query",
            ready.url,
            "hospital-encrypted",
            "records.npz",
            "--ca",
            str(ready.certificate),
            "--json",
            RETICENT_API_KEY=found[0],
        )
    record = json.loads(told)
    names = [task.class_names[label] for label in task.public[rows]]
    right = np.mean([a == b for a, b in zip(record["answers"], names, strict=True)])
    assert right >= 0.8
    assert record["odometer"]["bits"] == 0
    assert any("evaluation keys" in line for line in record["server_saw"])
    # What the server was sent is ciphertexts: none of them says an answer.
    assert not any(name in line for line in record["server_saw"] for name in task.class_names)
    assert found[0] not in log.read_text().split("\n", 2)[2]
