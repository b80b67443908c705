"""Small deployments made by hand: known encoders, known prototypes, SYNTHETIC records."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from reticent.data.answers import Answers
from reticent.data.task import Kind, Records, Task
from reticent.inference.channel import TensorSpec
from reticent.inference.split.client import GRAPH_FILE, SPEC_FILE, Spec
from reticent.inference.split.halves import Halves
from reticent.inference.split.harden import Costs, Hardened
from reticent.inference.split.release import Bare, Code, Noisy, Release

torch.set_num_threads(1)

# Three prototypes at the corners of a triangle; records have 4 numbers, the first two of which
# are where the record lies in the plane of the prototypes.
POINTS = np.array([[4, 0], [-2, 3.5], [-2, -3.5]], dtype=np.float32)
PLANE = np.eye(4, 2, dtype=np.float32)
CLASS_NAMES = ("walk", "sit", "lie")


def code() -> Code:
    return Code(prototypes=POINTS, labels=np.arange(3))


def noisy(radius: float | None = 0.5) -> Noisy:
    return Noisy(scale=np.ones(1, np.float32), size=2, prototypes=POINTS, radius=radius)


def records(n: int = 60, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """SYNTHETIC records around the prototypes, and their labels."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % 3)
    x = rng.normal(scale=0.5, size=(n, 4)).astype(np.float32)
    x[:, :2] += POINTS[labels]
    return x, labels


def task(n: int = 60, seed: int = 0) -> Task:
    x, labels = records(n, seed)
    return Task(
        name="triangle",
        x=x,
        public=labels,
        private={"side": (x[:, 2] > 0).astype(np.int64)},
        synthetic=True,
        class_names=CLASS_NAMES,
    )


def part(n: int = 60, seed: int = 0) -> Records:
    return task(n, seed).take(np.arange(n))


def answers() -> Answers:
    return Answers(kind=Kind.CLASSIFICATION, levels=3)


def encoder() -> nn.Module:
    """x (batch, 4) to its first two numbers."""
    layer = nn.Linear(4, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(PLANE.T))
    return nn.Sequential(layer).eval()


def head() -> nn.Module:
    """Features (batch, 2) to scores whose largest is the nearest prototype's."""
    layer = nn.Linear(2, 3)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(POINTS))
        layer.bias.copy_(torch.from_numpy(-0.5 * (POINTS**2).sum(axis=1)))
    return layer.eval()


def halves(release: Release | None = None) -> Halves:
    release = release or code()
    table = None
    if isinstance(release, Code):
        table = np.eye(3, dtype=np.float32)[release.labels]
    return Halves(encoder=encoder(), release=release, head=head(), answers=answers(), table=table)


def hardened(release: Release | None = None) -> Hardened:
    return Hardened(
        method="adapter_code",
        cut="first",
        halves=halves(release),
        guarantees=(),
        costs=Costs(
            client_flops_share=0.5, client_params_share=0.5, request_bytes=1, reply_bytes=12
        ),
        validation_utility=1.0,
    )


def spec(release: Release | None = None, **changes: Any) -> Spec:
    values: dict[str, Any] = {
        "model": "triangle",
        "version": "0" * 12,
        "kind": Kind.CLASSIFICATION,
        "shape": (4,),
        "release": release or code(),
        "answer": TensorSpec(name="scores", dtype="float32", shape=(None, 3)),
        "class_names": CLASS_NAMES,
        "guarantees": (),
        "synthetic": True,
    }
    return Spec(**(values | changes))


def graph(
    nodes: Sequence[onnx.NodeProto],
    *,
    constants: dict[str, NDArray[Any]] | None = None,
    batch: str | int = "batch",
    output: tuple[int, Sequence[str | int]] = (TensorProto.FLOAT, ("batch", 2)),
    domains: Sequence[str] = (),
) -> onnx.ModelProto:
    """A graph from x (batch, 4) to y, written by hand as a malicious provider would."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, (batch, 4))
    y = helper.make_tensor_value_info("y", output[0], output[1])
    weights = [
        numpy_helper.from_array(np.asarray(value), name)
        for name, value in ({"plane": PLANE} | (constants or {})).items()
    ]
    made = helper.make_graph(list(nodes), "g", [x], [y], initializer=weights)
    opsets = [helper.make_opsetid("", 18), *(helper.make_opsetid(name, 1) for name in domains)]
    model = helper.make_model(made, opset_imports=opsets)
    model.ir_version = 9
    return model


def honest() -> onnx.ModelProto:
    return graph([helper.make_node("MatMul", ["x", "plane"], ["y"])])


def write_client(folder: Path, model: onnx.ModelProto, made: Spec | None = None) -> Path:
    """A client folder with this encoder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / GRAPH_FILE).write_bytes(model.SerializeToString())
    (folder / SPEC_FILE).write_text(json.dumps((made or spec()).to_json()))
    return folder


RELEASES: dict[str, Release] = {
    "code": code(),
    "noisy": noisy(),
    "unbounded": noisy(None),
    "bare": Bare(size=2),
}
