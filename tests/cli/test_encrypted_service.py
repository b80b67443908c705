"""A new user's way with ciphertexts: run, serve with TLS and a key, query, from the shell."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reticent.data import load
from reticent.inference.sealed.client import SealedClient
from reticent.service.serve import Running, running_command

TESTS = Path(__file__).parents[1]
RECIPE = TESTS.parent / "recipes" / "hospital-encrypted.toml"
RETICENT = (sys.executable, "-m", "reticent.cli")
MODEL, ROWS = "hospital-encrypted", np.arange(0, 569, 60)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@dataclass(frozen=True, kw_only=True)
class Hospital:
    """A service that the shell's verbs made, and what `reticent query` was told by it."""

    folder: Path
    ready: Running
    key: str
    told: dict[str, Any]

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()


def shell(folder: Path, *arguments: str, **more: str) -> str:
    done = subprocess.run(
        [*RETICENT, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", **more},
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospital]:
    folder = tmp_path_factory.mktemp("hospital")
    shell(folder, "run", str(RECIPE), "--out", "bundle")
    np.savez(folder / "records.npz", x=load("breast-cancer").x[ROWS])
    serve = [*RETICENT, "serve", str(folder / "bundle"), "--port", "0", "--processes", "1"]
    command = [*serve, "--out", str(folder / "service")]
    with running_command(command, stderr=folder / "log", environment={"OMP_NUM_THREADS": "1"}) as (
        ready,
        _,
    ):
        found = re.search(r"rk_[0-9a-f]{16}\.[A-Za-z0-9_-]{43}", (folder / "log").read_text())
        assert found is not None
        asked = ("query", ready.url, MODEL, "records.npz", "--ca", str(ready.certificate))
        told = shell(folder, *asked, "--json", "--out", "client", RETICENT_API_KEY=found[0])
        yield Hospital(folder=folder, ready=ready, key=found[0], told=json.loads(told))


def test_the_hospitals_recipe_is_served_and_asked(hospital: Hospital) -> None:
    assert hospital.ready.tls == "self-signed"
    task, record = load("breast-cancer"), hospital.told
    names = [task.class_names[label] for label in task.public[ROWS]]
    right = np.mean([a == b for a, b in zip(record["answers"], names, strict=True)])
    assert right >= 0.8
    assert record["odometer"]["bits"] == 0
    assert any("evaluation keys" in line for line in record["server_saw"])
    # What the server was sent is ciphertexts: none of them says an answer.
    assert not any(name in line for line in record["server_saw"] for name in task.class_names)
    assert hospital.key not in hospital.log.split("\n", 2)[2]


def test_tritonclient_carries_ciphertexts(hospital: Hospital, tmp_path: Path) -> None:
    """A client that knows nothing of encryption is enough to carry it, over TLS with an API key."""
    sys.path.insert(0, str(TESTS / "interop"))
    from peers import TRITONCLIENT, environment

    python = environment("tritonclient", TRITONCLIENT)
    client = SealedClient.load(hospital.folder / "client" / MODEL)
    x = load("breast-cancer").x[ROWS].astype(np.float32)
    (tmp_path / "keys").write_bytes(client.public_keys)
    for number, request in enumerate(client.encode(x)["ciphertext"]):
        (tmp_path / f"request{number:02}").write_bytes(request)
    script, host = TESTS / "interop" / "ciphertexts_by_tritonclient.py", hospital.ready.url
    given = (host.removeprefix("https://"), MODEL, str(tmp_path), str(hospital.ready.certificate))
    done = subprocess.run(
        [str(python), str(script), *given, hospital.key],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "401" in done.stdout  # without the key
    replies = np.empty(len(x), dtype=object)
    replies[:] = [(tmp_path / f"reply{number}").read_bytes() for number in range(len(x))]
    names = client.spec.class_names
    answers = [names[label] for label in client.decode({"answer": replies})]
    assert answers == hospital.told["answers"]
