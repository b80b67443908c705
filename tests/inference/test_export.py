"""An exported encoder is the same function and tells nothing about where it was made."""

from __future__ import annotations

import getpass
import os
import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from reticent.errors import BundleError, UnsupportedError
from reticent.inference.export import export, strip
from reticent.inference.graph import Graph
from reticent.models.cut import cut_at
from reticent.models.networks import build

torch.set_num_threads(1)


class ConfidentialBlock(nn.Module):
    """A residual block whose name a competitor would like to read."""

    def __init__(self) -> None:
        super().__init__()
        self.private_convolution = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.norm(self.private_convolution(x)))


class ConfidentialNetwork(nn.Module):
    """Traced by torch.fx: the graph would otherwise quote this file and its lines."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.hidden_gem = ConfidentialBlock()
        self.last = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.last(self.hidden_gem(self.stem(x)).mean((2, 3)))
        return logits


CUTS = {
    "mlp": ((7,), "block2"),
    "convnet1d": ((3, 32), "conv2"),
    "convnet2d": ((1, 16, 16), "conv2"),
    "residual": ((1, 8, 8), "relu"),
}


def encoder(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    torch.manual_seed(0)
    shape, cut = CUTS[name]
    model = ConfidentialNetwork() if name == "residual" else build(name, shape=shape, outputs=4)
    front, _ = cut_at(model.eval(), cut)
    # Dropout is off at inference: it must neither remain in the graph nor stop the export.
    return nn.Sequential(front, nn.Dropout(0.5), nn.Flatten()).eval(), shape


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    paths = {}
    for name in CUTS:
        module, shape = encoder(name)
        paths[name] = tmp_path_factory.mktemp(name) / "encoder.onnx"
        export(module, torch.randn(1, *shape), paths[name])
    return paths


@pytest.mark.parametrize("batch", [1, 2, 7])
@pytest.mark.parametrize("name", CUTS)
def test_outputs_agree_at_any_batch(exported: dict[str, Path], name: str, batch: int) -> None:
    module, shape = encoder(name)
    x = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(batch))
    with torch.no_grad():
        want = module(x).numpy()
    np.testing.assert_allclose(Graph(exported[name])(x.numpy()), want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CUTS)
def test_the_file_names_neither_code_nor_machine(exported: dict[str, Path], name: str) -> None:
    data = exported[name].read_bytes()
    module, _ = encoder(name)
    secrets = {
        *(type(part).__name__ for part in module.modules()),
        *(part for path, _ in module.named_modules() for part in path.split(".") if len(part) > 2),
        *(name.rsplit(".", 1)[-1] for name, _ in module.named_parameters()),
        *Path(__file__).parts[1:],
        *Path(torch.__file__).parts[1:-2],
        os.uname().nodename,
        getpass.getuser(),
        "torch",
        "pytorch",
        "aten",
        ".py",
        "forward",
        "return ",
        "self.",
        "mean((2, 3))",
        exported[name].parent.name,
    }
    # Words of ONNX itself: operator names.
    words = {node.op_type.lower() for node in onnx.load(exported[name]).graph.node}
    secrets = {secret for secret in secrets if len(secret) > 2 and secret.lower() not in words}
    assert len(secrets) > 10
    # The producer's own name is the one that is meant to be read.
    data = data.replace(b"reticent", b"")
    assert not [secret for secret in secrets if secret.encode().lower() in data.lower()]


def test_without_stripping_the_same_search_would_find_something() -> None:
    whole = ConfidentialNetwork().eval()
    program = torch.onnx.export(whole, (torch.randn(2, 1, 8, 8),), dynamo=True, verbose=False)
    assert program is not None
    raw = program.model_proto.SerializeToString()
    for secret in (b"ConfidentialBlock", b"hidden_gem", b"torch", Path(__file__).name.encode()):
        assert secret in raw


@pytest.mark.parametrize("name", CUTS)
def test_only_the_words_of_onnx_remain(exported: dict[str, Path], name: str) -> None:
    model = onnx.load(exported[name])
    assert model.producer_name == "reticent"
    assert not [*model.metadata_props, *model.doc_string, *model.functions]
    names = {value for node in model.graph.node for value in (*node.input, *node.output)}
    assert all(re.fullmatch(r"x|y|[wt]\d+|", value) for value in names)
    assert {node.domain for node in model.graph.node} == {""}
    assert "Dropout" not in {node.op_type for node in model.graph.node}


class Drawing(nn.Module):
    """A layer that draws, in one of several ways."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.layer = how, nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x)
        if self.how == "normal":
            return x + torch.randn_like(x)
        if self.how == "uniform":
            return x + torch.rand_like(x)
        if self.how == "bernoulli":
            return x * torch.bernoulli(torch.sigmoid(x))
        if self.how == "dropout":
            return functional_dropout(x)
        return x + torch.multinomial(torch.softmax(x, dim=1), 1)


def functional_dropout(x: Tensor) -> Tensor:
    return nn.functional.dropout(x, 0.5, training=True)


@pytest.mark.parametrize("how", ["normal", "uniform", "bernoulli", "dropout", "multinomial"])
def test_a_module_that_draws_inside_is_refused(tmp_path: Path, how: str) -> None:
    """Noise that a guarantee rests on comes from the client's secure source, not from here."""
    with pytest.raises(BundleError, match="randomness"):
        export(Drawing(how), torch.randn(1, 4), tmp_path / "encoder.onnx")
    assert not list(tmp_path.iterdir())


class Pair(nn.Module):
    """Two outputs."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x + 1, x - 1


class Unsupported(nn.Module):
    """An operator that ONNX lacks."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.special.bessel_j0(x)


def test_what_has_no_onnx_form_is_refused_and_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="one output"):
        export(Pair(), torch.randn(1, 4), tmp_path / "encoder.onnx")
    with pytest.raises(UnsupportedError):
        export(Unsupported(), torch.randn(1, 4), tmp_path / "encoder.onnx")
    assert not list(tmp_path.iterdir())


class Moody(nn.Module):
    """Gives other numbers each time that Python runs it."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * self.calls


def test_a_graph_that_differs_from_its_module_is_not_kept(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="differs"):
        export(Moody(), torch.ones(1, 4), tmp_path / "encoder.onnx")
    assert not list(tmp_path.iterdir())


def stripped(*nodes: onnx.NodeProto, domains: tuple[str, ...] = ()) -> onnx.ModelProto:
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ("batch", 4))
        for name in ("my_input", "my_output")
    ]
    made = helper.make_graph(list(nodes), "my_graph", ends[:1], ends[1:], doc_string="my notes")
    opsets = [helper.make_opsetid("", 18), *(helper.make_opsetid(name, 1) for name in domains)]
    model = helper.make_model(made, opset_imports=opsets, producer_name="my_lab")
    model.ir_version = 9
    strip(model)
    return model


def test_a_foreign_domain_is_refused_where_used_and_dropped_where_not() -> None:
    negate = helper.make_node("Neg", ["my_input"], ["my_output"])
    assert [entry.domain for entry in stripped(negate, domains=("my.lab",)).opset_import] == [""]
    secret = helper.make_node("Neg", ["my_input"], ["my_output"], domain="my.lab")
    with pytest.raises(BundleError, match=r"my\.lab\.Neg"):
        stripped(secret, domains=("my.lab",))


def test_names_inside_constants_and_attributes_go_too() -> None:
    weight = helper.make_tensor("my_secret_weight", TensorProto.FLOAT, [1], [2.0])
    model = stripped(
        helper.make_node("Constant", [], ["my_constant"], value=weight, name="my_layer"),
        helper.make_node("Mul", ["my_input", "my_constant"], ["my_output"], doc_string="my idea"),
    )
    data = model.SerializeToString()
    assert b"my_" not in data
    assert b"my " not in data
    assert b"secret" not in data
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    got = session.run(["y"], {"x": np.ones((3, 4), np.float32)})[0]
    np.testing.assert_array_equal(got, np.full((3, 4), 2.0, np.float32))
