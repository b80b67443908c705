"""From trained halves to the files of a bundle: client/ and server/."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from reticent.data.task import Task
from reticent.errors import BundleError
from reticent.inference.channel import TensorSpec
from reticent.inference.deployed import local_pair
from reticent.inference.export import export
from reticent.inference.graph import Graph
from reticent.inference.sealed.client import SealedClient
from reticent.inference.sealed.files import PROGRAM_FILE, save_layout
from reticent.inference.sealed.method import SealedHead
from reticent.inference.sealed.release import Sealed
from reticent.inference.split import client, server
from reticent.inference.split.harden import Hardened
from reticent.inference.split.release import Code, Release

_SEALED_ROWS = 4
# Answers are rounded to 2**-6 before the client sees them.
_SEALED_GAP = 2.0**-5


def publish(folder: Path, hardened: Hardened, task: Task, *, name: str) -> str:
    """Write `folder`/client and `folder`/server; the version that names this pair.

    The exported encoder is compared with the trained one on up to 256 real records: codes may
    differ for at most one in 200, which float rounding at a border explains. The version is a
    digest of encoder, release and answers, so that it changes when either half does.
    """
    halves = hardened.halves
    sample = torch.from_numpy(task.x[:1])
    for side in ("client", "server"):
        (folder / side).mkdir(parents=True, exist_ok=True)
    encoder_path = folder / "client" / client.GRAPH_FILE
    export(halves.encoder, sample, encoder_path)
    _same_code(Graph(encoder_path), hardened, task.x[:256])
    release = halves.release
    answer = TensorSpec(name="scores", dtype="float32", shape=(None, halves.answers.outputs))
    answers_path = _write_answers(folder / "server", hardened)
    version = _version(encoder_path, answers_path, release)
    spec = client.Spec(
        model=name,
        version=version,
        kind=task.kind,
        shape=task.x.shape[1:],
        release=release,
        answer=answer,
        class_names=task.class_names,
        guarantees=hardened.guarantees,
        synthetic=task.synthetic,
    )
    _write_json(folder / "client" / client.SPEC_FILE, spec.to_json())
    _write_json(
        folder / "server" / server.SPEC_FILE,
        {"request": release.spec.to_json(), "answer": answer.to_json(), "version": version},
    )
    _same_scores(folder, hardened, task.x[:_SEALED_ROWS])
    return version


def _write_answers(folder: Path, hardened: Hardened) -> Path:
    """The server's answer table or head; its path."""
    halves = hardened.halves
    if isinstance(halves.head, SealedHead):
        save_layout(folder, halves.head.layout)
        return folder / PROGRAM_FILE
    if isinstance(halves.release, Code):
        assert halves.table is not None
        _save_table(folder / server.TABLE_FILE, halves.table)
        return folder / server.TABLE_FILE
    export(halves.head, torch.zeros(1, halves.release.size), folder / server.GRAPH_FILE)
    return folder / server.GRAPH_FILE


def _version(encoder: Path, answers: Path, release: Release) -> str:
    parts = hashlib.sha256()
    for path in (encoder, answers):
        parts.update(hashlib.sha256(path.read_bytes()).digest())
    parts.update(json.dumps(release.to_json(), sort_keys=True).encode())
    return parts.hexdigest()[:12]


def _same_code(graph: Graph, hardened: Hardened, x: NDArray[np.float32]) -> None:
    release = hardened.halves.release
    if not isinstance(release, Code):
        return
    exported = release.nearest(graph(x))
    trained = release.nearest(hardened.halves.features(x))
    if (exported != trained).mean() > 0.005:
        raise BundleError(
            f"The exported encoder gives other codes for {(exported != trained).sum()} of {len(x)} "
            "records. Report the network's architecture."
        )


def _same_scores(folder: Path, hardened: Hardened, x: NDArray[np.float32]) -> None:
    """Ciphertexts must give what the polynomial network gives on plaintext."""
    if not isinstance(hardened.halves.head, SealedHead):
        return
    sealed, answers = local_pair(folder)
    release = hardened.halves.release
    assert isinstance(sealed, SealedClient)
    assert isinstance(release, Sealed)
    got = sealed.scores(answers.answer(sealed.encode(x)))
    want = hardened.halves.predict(x)
    gap, step = float(np.abs(got - want).max()), 2.0**-release.plan.places
    # Half a step is the certified error, half the rounding; records may differ from those it is of.
    if not gap <= 2 * step + _SEALED_GAP * max(1.0, float(np.abs(want).max())):
        raise BundleError(
            f"The encrypted network differs from the plain one by {gap:.3g} on {len(x)} records, "
            f"where answers are rounded to {step:.3g}. Its values span too wide a range: cut "
            "later, or train with smaller weights."
        )


def _save_table(path: Path, table: NDArray[np.float32]) -> None:
    from safetensors.numpy import save_file

    save_file({"table": np.ascontiguousarray(table, dtype=np.float32)}, str(path))


def _write_json(path: Path, record: object) -> None:
    path.write_text(json.dumps(record, indent=2, allow_nan=False) + "\n")
