"""A graph file is run only if it is one function of one float32 array."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper
from split_specimens import PLANE, graph, honest

from reticent.errors import BundleError, InputError
from reticent.inference.graph import Graph
from reticent.inference.operators import RANDOM, check_operators


def written(folder: Path, model: onnx.ModelProto) -> Path:
    path = folder / "encoder.onnx"
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("batch", [1, 2, 7, 300])
def test_a_graph_is_the_function_it_says_at_any_batch(tmp_path: Path, batch: int) -> None:
    run = Graph(written(tmp_path, honest()))
    x = np.random.default_rng(0).normal(size=(batch, 4)).astype(np.float32)
    assert run.shape == (4,)
    np.testing.assert_allclose(run(x), x @ PLANE, rtol=1e-6)
    np.testing.assert_allclose(run(np.asfortranarray(x)), x @ PLANE, rtol=1e-6)


@pytest.mark.parametrize(
    "x",
    [
        np.zeros((2, 5), np.float32),
        np.zeros((2, 4), np.float64),
        np.zeros(4, np.float32),
        np.zeros((0, 4), np.float32),
    ],
)
def test_other_inputs_are_refused(tmp_path: Path, x: np.ndarray) -> None:
    with pytest.raises(InputError, match="shape="):
        Graph(written(tmp_path, honest()))(x)


def test_what_is_no_graph_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "encoder.onnx"
    for content in (b"", b"not a graph", honest().SerializeToString()[:-20]):
        path.write_bytes(content)
        with pytest.raises(BundleError):
            Graph(path)


def renamed() -> onnx.ModelProto:
    model = honest()
    model.graph.output[0].name = model.graph.node[0].output[0] = "features"
    return model


def two_outputs() -> onnx.ModelProto:
    model = honest()
    model.graph.node.append(helper.make_node("Neg", ["y"], ["side"]))
    model.graph.output.append(
        helper.make_tensor_value_info("side", TensorProto.FLOAT, ("batch", 2))
    )
    return model


def integers() -> onnx.ModelProto:
    nodes = [
        helper.make_node("MatMul", ["x", "plane"], ["f"]),
        helper.make_node("Cast", ["f"], ["y"], to=TensorProto.INT64),
    ]
    return graph(nodes, output=(TensorProto.INT64, ("batch", 2)))


def foreign() -> onnx.ModelProto:
    node = helper.make_node("Secret", ["x"], ["y"], domain="com.example")
    return graph([node], domains=["com.example"])


def elsewhere(path: str) -> onnx.ModelProto:
    """Weights that ONNX Runtime would read from another file of the client's machine."""
    model = honest()
    weight = model.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in (("location", path), ("offset", "0"), ("length", "32")):
        weight.external_data.add(key=key, value=value)
    return model


def random(operator: str) -> onnx.ModelProto:
    """Features plus a draw: also a hidden state, for the generator remembers how often it ran."""
    given = {
        "RandomNormal": ([], {"shape": [1, 2]}),
        "RandomUniform": ([], {"shape": [1, 2], "seed": 7.0}),
        "Multinomial": (["f"], {"dtype": TensorProto.FLOAT}),
    }
    inputs, attributes = given.get(operator, (["f"], {}))
    nodes = [
        helper.make_node("MatMul", ["x", "plane"], ["f"]),
        helper.make_node(operator, inputs, ["noise"], **attributes),
        helper.make_node("Add", ["f", "noise"], ["y"]),
    ]
    return graph(nodes)


def branching() -> onnx.ModelProto:
    """Says one thing for a batch of one and another for more, in branches of an If."""
    out = helper.make_tensor_value_info("o", TensorProto.FLOAT, ("batch", 2))
    branches = {
        name: helper.make_graph([helper.make_node(op, ["f"], ["o"])], name, [], [out])
        for name, op in (("then_branch", "Neg"), ("else_branch", "Identity"))
    }
    nodes = [
        helper.make_node("MatMul", ["x", "plane"], ["f"]),
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["rows"]),
        helper.make_node("Equal", ["rows", "one"], ["alone"]),
        helper.make_node("If", ["alone"], ["y"], **branches),
    ]
    numbers = {"zero": np.array(0, np.int64), "one": np.array(1, np.int64)}
    return graph(nodes, constants=numbers)


def with_function() -> onnx.ModelProto:
    model = honest()
    body = [helper.make_node("Neg", ["a"], ["b"])]
    opset = [helper.make_opsetid("", 18)]
    model.functions.append(helper.make_function("d", "F", ["a"], ["b"], body, opset))
    return model


def constant_elsewhere() -> onnx.ModelProto:
    """The same trick inside a Constant node."""
    weight = elsewhere("diary.txt").graph.initializer[0]
    nodes = [
        helper.make_node("Constant", [], ["w"], value=weight),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    return graph(nodes)


HOSTILE = {
    "renamed": (renamed(), "float32 x"),
    "two outputs": (two_outputs(), "float32 x"),
    "integers": (integers(), "float32 x"),
    "foreign operator": (foreign(), "com.example"),
    "control flow": (branching(), "control flow"),
    "function": (with_function(), "functions"),
    "constant elsewhere": (constant_elsewhere(), "another file"),
    **{name: (random(name), "randomness") for name in sorted(RANDOM)},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_graphs_are_refused_for_what_they_are(tmp_path: Path, name: str) -> None:
    model, reason = HOSTILE[name]
    with pytest.raises(BundleError, match=reason):
        Graph(written(tmp_path, model))


@given(st.integers(0, 10_000), st.integers(0, 255))
def test_a_damaged_file_is_refused_or_still_passes_but_never_crashes_the_check(
    place: int, byte: int
) -> None:
    data = bytearray(honest().SerializeToString())
    data[place % len(data)] = byte
    with contextlib.suppress(BundleError):
        check_operators(bytes(data))


@pytest.mark.parametrize("how", ["absolute", "above", "beside"])
def test_a_graph_cannot_read_other_files_of_the_clients_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """What it reads could leave the machine inside the features."""
    diary = tmp_path / "home" / "diary.txt"
    (tmp_path / "home" / "here").mkdir(parents=True)
    diary.write_bytes(np.arange(8, dtype=np.float32).tobytes())
    monkeypatch.chdir(diary.parent if how == "beside" else diary.parent / "here")
    place = {"absolute": str(diary), "above": "../diary.txt", "beside": "diary.txt"}[how]
    with pytest.raises(BundleError, match="another file"):
        Graph(written(tmp_path, elsewhere(place)))


def test_a_graph_that_fails_while_running_is_the_bundles_fault(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["r"]),
        helper.make_node("MatMul", ["r", "plane"], ["y"]),
    ]
    model = graph(nodes, constants={"shape": np.array([3, 4], np.int64)})
    run = Graph(written(tmp_path, model))
    assert run(np.zeros((3, 4), np.float32)).shape == (3, 2)
    with pytest.raises(BundleError, match="fails on 2"):
        run(np.zeros((2, 4), np.float32))
