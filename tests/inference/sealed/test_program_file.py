"""Polynomial networks on disk: what is read is what was written, and nothing else is read."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sealed_specimens import laid_out, network

from reticent.errors import BundleError
from reticent.inference.ckks import program_file
from reticent.inference.ckks.program import Add, Convolution, Linear, Polynomial, Program, Step
from reticent.inference.sealed.files import LAYOUT_FILE, PROGRAM_FILE, load_plan, save_layout


def everything():
    rng = np.random.default_rng(3)
    operations = [
        (
            Convolution(
                name="conv",
                weight=rng.normal(size=(4, 1, 3, 3)),
                bias=rng.normal(size=4),
                stride=(2, 1),
                padding=(1, 0),
                dilation=(1, 2),
                groups=2,
            ),
            (0,),
        ),
        (Polynomial(name="square", coefficients=rng.normal(size=(3, 4))), (1,)),
        (Add(name="sum"), (1, 2)),
        (Linear(name="last", weight=rng.normal(size=(3, 48)), bias=rng.normal(size=3)), (3,)),
    ]
    steps = tuple(Step(operation=each, sources=sources) for each, sources in operations)
    return Program(input_shape=(2, 7, 7), steps=steps, bound=3.0)


def test_every_operation_survives_the_disk(tmp_path):
    program = everything()
    program_file.save(tmp_path / "network.npz", program)
    found = program_file.load(tmp_path / "network.npz")
    x = np.random.default_rng(4).normal(size=(5, 2, 7, 7))
    np.testing.assert_array_equal(found.run(x), program.run(x))
    assert found.bound == 3.0
    assert [step.operation.name for step in found.steps] == ["conv", "square", "sum", "last"]


@pytest.mark.parametrize("damage", ["missing array", "NaN", "pickle", "shape", "truncated", "text"])
def test_what_is_no_network_is_refused(tmp_path, damage):
    path = tmp_path / "network.npz"
    program_file.save(path, network())
    with np.load(path) as stored:
        arrays = dict(stored)
    if damage == "missing array":
        del arrays["0.weight"]
    elif damage == "NaN":
        arrays["0.weight"][0, 0] = np.nan
    elif damage == "pickle":
        arrays["0.weight"] = np.array([print], dtype=object)
    elif damage == "shape":
        arrays["0.weight"] = arrays["0.weight"][:, :-1]
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-40])
    elif damage == "text":
        path.write_text("nothing")
    else:
        np.savez(path, **arrays)
    with pytest.raises(BundleError, match="Publish the bundle again"):
        program_file.load(path)


def test_a_layout_is_planned_the_same_everywhere(tmp_path):
    layout = laid_out()
    save_layout(tmp_path, layout)
    assert load_plan(tmp_path).digest == layout.plan.digest
    record = json.loads((tmp_path / LAYOUT_FILE).read_text())
    record["plan"] = "00" * 16
    (tmp_path / LAYOUT_FILE).write_text(json.dumps(record))
    with pytest.raises(BundleError, match="otherwise than the client's files"):
        load_plan(tmp_path)
    (tmp_path / PROGRAM_FILE).unlink()
    with pytest.raises(BundleError, match=PROGRAM_FILE):
        load_plan(tmp_path)
