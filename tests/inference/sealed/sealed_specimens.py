"""A small polynomial network, sealed and published as a bundle's folders would hold it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import nn

from reticent.data.task import Kind
from reticent.inference.channel import TensorSpec
from reticent.inference.ckks.plan import plan
from reticent.inference.ckks.primitives import OPERATIONS, Primitives
from reticent.inference.ckks.program import Linear, Polynomial, Program, Step
from reticent.inference.export import export
from reticent.inference.sealed.files import Layout, save_layout
from reticent.inference.sealed.release import Sealed
from reticent.inference.split.client import GRAPH_FILE, SPEC_FILE, Spec

FLAT = Primitives(table=dict.fromkeys(OPERATIONS, (1.0,) * 8))
INPUTS, OUTPUTS = 6, 3


def network() -> Program:
    """6 numbers to 3 scores by way of 4 squares."""
    rng = np.random.default_rng(0)
    operations = (
        Linear(name="first", weight=rng.normal(size=(4, INPUTS)) / 3, bias=rng.normal(size=4)),
        Polynomial(name="square", coefficients=rng.uniform(0.2, 1, size=(3, 4))),
        Linear(name="last", weight=rng.normal(size=(OUTPUTS, 4)), bias=rng.normal(size=OUTPUTS)),
    )
    steps = tuple(Step(operation=each, sources=(at,)) for at, each in enumerate(operations))
    return Program(input_shape=(INPUTS,), steps=steps, bound=2.0)


def laid_out(flooding_bits: int = 0) -> Layout:
    program = network()
    made = plan(
        program,
        goal="upload",
        records=np.random.default_rng(1).uniform(-2, 2, size=(64, INPUTS)),
        primitives=FLAT,
        flooding_bits=flooding_bits,
    )
    return Layout(program=program, plan=made, goal="upload", primitives=FLAT)


def publish(folder: Path, *, flooding_bits: int = 0) -> Layout:
    """`folder`/client and `folder`/server; the encoder is the identity."""
    layout = laid_out(flooding_bits)
    for side in ("client", "server"):
        (folder / side).mkdir(parents=True)
    save_layout(folder / "server", layout)
    export(nn.Flatten(), torch.zeros(1, INPUTS), folder / "client" / GRAPH_FILE)
    spec = Spec(
        model="sealed",
        version="1",
        kind=Kind.CLASSIFICATION,
        shape=(INPUTS,),
        release=Sealed(plan=layout.plan.for_client()),
        answer=TensorSpec(name="scores", dtype="float32", shape=(None, OUTPUTS)),
        class_names=("a", "b", "c"),
        guarantees=(),
    )
    (folder / "client" / SPEC_FILE).write_text(json.dumps(spec.to_json()))
    return layout


def records(n: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-2, 2, size=(n, INPUTS)).astype(np.float32)
