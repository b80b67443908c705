"""A client keeps its alphabet whatever encoder it is given, and finds out liars by itself."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper
from split_specimens import (
    POINTS,
    RELEASES,
    code,
    graph,
    hardened,
    honest,
    noisy,
    records,
    spec,
    task,
    write_client,
)

from reticent.data.task import Kind
from reticent.errors import AuditFailedError, BudgetExhaustedError, BundleError, InputError
from reticent.guarantee import SERVER, Empirical, Guarantee, Pillar
from reticent.inference.channel import TensorSpec, ask
from reticent.inference.split.client import GRAPH_FILE, SPEC_FILE, Spec, SplitClient
from reticent.inference.split.odometer import Odometer
from reticent.inference.split.publish import publish
from reticent.inference.split.release import Code, Release
from reticent.inference.split.server import load_server

X, Y = records(90)


def client(
    folder: Path, model: onnx.ModelProto | None = None, release: Release | None = None, **more: Any
) -> SplitClient:
    return SplitClient.load(write_client(folder, model or honest(), spec(release)), **more)


def nodes(*steps: tuple[str, list[str], list[str]], **attributes: Any) -> list[onnx.NodeProto]:
    """The honest features f, then these steps; attributes go to the first of them."""
    made = [helper.make_node("MatMul", ["x", "plane"], ["f"])]
    for place, (operator, inputs, outputs) in enumerate(steps):
        made.append(
            helper.make_node(operator, inputs, outputs, **(attributes if place == 0 else {}))
        )
    return made


def batch_dependent() -> onnx.ModelProto:
    """Features relative to the batch's mean: what one sends depends on what others asked."""
    mean = ("ReduceMean", ["f", "axis"], ["m"])
    return graph(
        nodes(mean, ("Sub", ["f", "m"], ["y"]), keepdims=1),
        constants={"axis": np.array([0], np.int64)},
    )


def alone_differs() -> onnx.ModelProto:
    """Behaves in any batch but of one: multiplies by sign(rows - 1.5)."""
    steps = (
        ("Shape", ["x"], ["shape"]),
        ("Gather", ["shape", "zero"], ["rows"]),
        ("Cast", ["rows"], ["count"]),
        ("Sub", ["count", "border"], ["above"]),
        ("Sign", ["above"], ["sign"]),
        ("Mul", ["f", "sign"], ["y"]),
    )
    made = nodes(*steps)
    made[3].attribute.append(helper.make_attribute("to", TensorProto.FLOAT))
    return graph(
        made,
        constants={"zero": np.array([0], np.int64), "border": np.array([1.5], np.float32)},
    )


def scaled(factor: float) -> onnx.ModelProto:
    return graph(
        nodes(("Mul", ["f", "factor"], ["y"])),
        constants={"factor": np.array([factor], np.float32)},
    )


def not_a_number() -> onnx.ModelProto:
    return graph(
        nodes(("Mul", ["f", "zero"], ["z"]), ("Div", ["z", "zero"], ["y"])),
        constants={"zero": np.array([0.0], np.float32)},
    )


def wide(columns: int) -> onnx.ModelProto:
    weight = np.ones((4, columns), np.float32)
    node = helper.make_node("MatMul", ["x", "weight"], ["y"])
    return graph([node], constants={"weight": weight}, output=(1, ("batch", columns)))


def three_axes() -> onnx.ModelProto:
    return graph(
        nodes(("Unsqueeze", ["f", "axis"], ["y"])),
        constants={"axis": np.array([2], np.int64)},
        output=(1, ("batch", 2, 1)),
    )


def one_row() -> onnx.ModelProto:
    return graph(
        nodes(("ReduceMean", ["f", "axis"], ["y"]), keepdims=1),
        constants={"axis": np.array([0], np.int64)},
        output=(1, (1, 2)),
    )


def liar() -> onnx.ModelProto:
    """Tells a private bit, the sign of the third number, as if it were the label."""
    steps = (
        ("MatMul", ["x", "third"], ["t"]),
        ("Sign", ["t"], ["s"]),
        ("Mul", ["s", "far"], ["y"]),
    )
    return graph(
        nodes(*steps),
        constants={
            "third": np.array([[0], [0], [1], [0]], np.float32),
            "far": np.array([[9, 0]], np.float32),
        },
    )


REFUSED = {
    "NaN": not_a_number(),
    "infinite": scaled(math.inf),
    "too wide": wide(3),
    "too narrow": wide(1),
    "three axes": three_axes(),
    "one row for all": one_row(),
}
TOLERATED = {
    "honest": honest(),
    "huge": scaled(1e30),
    "tiny": scaled(1e-30),
    "zero": scaled(0.0),
    "batch dependent": batch_dependent(),
    "alone differs": alone_differs(),
    "liar": liar(),
}


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_enforced_is_refused_before_anything_is_charged_or_sent(
    tmp_path: Path, name: str, release: str
) -> None:
    odometer = Odometer(tmp_path / "o.db")
    made = client(tmp_path / "client", REFUSED[name], RELEASES[release], odometer=odometer)
    with pytest.raises((AuditFailedError, BundleError)):
        made.encode(X)
    assert odometer.read("default").requests == 0


@pytest.mark.parametrize("name", TOLERATED)
def test_a_code_stays_in_its_alphabet_whatever_the_encoder_does(tmp_path: Path, name: str) -> None:
    made = client(tmp_path, TOLERATED[name])
    for rows in (1, 2, 90):
        request = made.encode(X[:rows])
        assert list(request) == ["code"]
        assert request["code"].dtype == np.uint8
        assert request["code"].shape == (rows, 1)
        assert request["code"].max() < 3


@pytest.mark.parametrize("name", TOLERATED)
def test_a_noisy_feature_stays_in_its_radius_whatever_the_encoder_does(
    tmp_path: Path, name: str
) -> None:
    """8 sigma of noise in either coordinate is as good as impossible (1e-13 for all of these)."""
    request = client(tmp_path, TOLERATED[name], noisy(0.5)).encode(X)
    away = np.linalg.norm(request["features"][:, None] - POINTS[None], axis=2).min(axis=1)
    assert away.max() < 0.5 + 8 * math.sqrt(2)


@pytest.mark.parametrize(
    ("name", "broken"), [("batch dependent", "batch_invariant"), ("alone differs", "batch_inv")]
)
@pytest.mark.parametrize("release", ["code", "noisy"])
def test_the_audit_finds_encodings_that_depend_on_their_batch(
    tmp_path: Path, name: str, broken: str, release: str
) -> None:
    made = client(tmp_path, TOLERATED[name], RELEASES[release])
    with pytest.raises(AuditFailedError, match=broken):
        made.audit(X)


def test_the_audit_finds_a_liar_by_its_labels(tmp_path: Path) -> None:
    lying = client(tmp_path / "liar", liar())
    assert lying.audit(X).agreement is None
    with pytest.raises(AuditFailedError, match="agreement"):
        lying.audit(X, Y, min_agreement=0.9)
    fair = client(tmp_path / "fair").audit(X, Y, min_agreement=0.9)
    assert fair.agreement is not None
    assert fair.agreement > 0.99


def test_an_audit_says_what_one_request_may_tell(tmp_path: Path) -> None:
    codes = client(tmp_path / "code").audit(X)
    assert codes.bits == pytest.approx(math.log2(3))
    assert codes.nats_beyond_label == 0
    noise = client(tmp_path / "noisy", release=noisy(0.5)).audit(X)
    assert noise.nats_beyond_label == pytest.approx(0.125)
    assert noise.largest_radius is not None
    assert 0.4 < noise.largest_radius <= 0.5
    record = json.loads(json.dumps(noise.to_json(), allow_nan=False))
    assert record["bits"] is None
    assert record["n"] == len(X)


def test_an_audit_charges_nothing(tmp_path: Path) -> None:
    odometer = Odometer(tmp_path / "o.db")
    client(tmp_path / "c", odometer=odometer).audit(X, Y, min_agreement=0.5)
    assert odometer.read("default").requests == 0


def test_an_audit_that_could_not_find_anything_is_refused(tmp_path: Path) -> None:
    made = client(tmp_path / "code")
    with pytest.raises(InputError, match="two inputs"):
        made.audit(X[:1])
    with pytest.raises(InputError, match="give `labels`"):
        made.audit(X, min_agreement=0.9)
    with pytest.raises(InputError, match="90 labels"):
        made.audit(X, Y[:-1])
    with pytest.raises(InputError, match="no client-side label"):
        client(tmp_path / "bare", release=RELEASES["bare"]).audit(X, Y)


def test_the_odometer_is_charged_first_and_stops_requests(tmp_path: Path) -> None:
    limit = 10 * math.log2(3) + 1e-9
    odometer = Odometer(tmp_path / "o.db", max_bits=limit)
    made = client(tmp_path / "c", odometer=odometer, user="ann")
    made.encode(X[:10])
    with pytest.raises(BudgetExhaustedError):
        made.encode(X[:1])
    assert odometer.read("ann").requests == 10
    silent = client(tmp_path / "n", release=noisy(None), odometer=Odometer(tmp_path / "p.db"))
    silent.encode(X[:2])
    assert Odometer(tmp_path / "p.db").read("default").nats == math.inf


@pytest.mark.parametrize(
    "x",
    [
        np.zeros((2, 5), np.float32),
        np.zeros((0, 4), np.float32),
        np.full((1, 4), np.nan, np.float32),
        np.full((1, 4), np.inf, np.float32),
    ],
)
def test_inputs_that_cannot_be_encoded_are_the_users_error(
    tmp_path: Path, x: NDArray[np.float32]
) -> None:
    with pytest.raises(InputError):
        client(tmp_path).encode(x)


GUARANTEE = Guarantee(
    id="input/server/x",
    pillar=Pillar.INPUT,
    adversary=SERVER,
    strength=Empirical(),
    mechanism="x",
    assumptions=(),
    source="here",
)


@pytest.mark.parametrize("release", RELEASES)
def test_json_restores_a_specification(release: str) -> None:
    made = spec(RELEASES[release], guarantees=(GUARANTEE,))
    record = json.loads(json.dumps(made.to_json(), allow_nan=False))
    assert Spec.from_json(record).to_json() == made.to_json()
    assert Spec.from_json(record).guarantees == (GUARANTEE,)


@pytest.mark.parametrize("field", spec().to_json())
def test_every_field_of_a_specification_is_needed(field: str) -> None:
    record = spec().to_json()
    del record[field]
    with pytest.raises(BundleError):
        Spec.from_json(record)


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 2},
        {"kind": "telepathy"},
        {"shape": ["four"]},
        {"shape": None},
        {"answer": {"name": "scores"}},
        {"answer": spec().answer.to_json() | {"dtype": "float99"}},
        {"release": {"kind": "noisy"}},
        {"guarantees": [{"id": "x"}]},
        {"guarantees": [GUARANTEE.to_json() | {"strength": {"kind": "perfect"}}]},
        {"class_names": None},
    ],
)
def test_a_malformed_specification_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(BundleError):
        Spec.from_json(spec().to_json() | change)


def test_a_provider_cannot_call_a_large_alphabet_labels() -> None:
    """16 codes with a "label" each would count as 0 nats beyond the label, for 3 classes."""
    many = Code(prototypes=np.arange(32, dtype=np.float32).reshape(16, 2), labels=np.arange(16))
    with pytest.raises(BundleError, match="label=15"):
        Spec.from_json(spec(many).to_json())
    one = TensorSpec(name="scores", dtype="float32", shape=(None, 1))
    levels = spec(many, kind=Kind.REGRESSION, answer=one, class_names=())
    assert Spec.from_json(levels.to_json()).release.bits == 4


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b"[" * 200_000])
def test_unreadable_specifications_are_refused(tmp_path: Path, content: bytes) -> None:
    write_client(tmp_path, honest())
    (tmp_path / SPEC_FILE).write_bytes(content)
    with pytest.raises(BundleError):
        SplitClient.load(tmp_path)


@pytest.mark.parametrize("name", [SPEC_FILE, GRAPH_FILE])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    write_client(tmp_path, honest())
    (tmp_path / name).unlink()
    with pytest.raises(BundleError, match=name.replace(".", r"\.")):
        SplitClient.load(tmp_path)


def test_an_encoder_of_another_shape_is_refused(tmp_path: Path) -> None:
    write_client(tmp_path, honest(), spec(shape=(5,)))
    with pytest.raises(BundleError, match="its specification says"):
        SplitClient.load(tmp_path)


WITHOUT_TORCH = """
import sys
from importlib.abc import MetaPathFinder
from pathlib import Path
FORBIDDEN = {"torch", "sklearn", "scipy", "onnx", "onnxscript", "pandas"} | set(sys.argv[4:])
class Wall(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in FORBIDDEN:
            raise ImportError(f"{name} is walled off")
sys.meta_path.insert(0, Wall())
import numpy as np
side, folder, arrays = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
if side == "client":
    from reticent.inference.split.client import SplitClient
    half = SplitClient.load(folder)
    x = np.load(arrays / "x.npy")
    half.audit(x)
    for name, value in half.encode(x).items():
        np.save(arrays / f"request_{name}.npy", value)
elif side == "server":
    from reticent.inference.split.server import load_server
    half = load_server(folder)
    name = half.inputs[0].name
    reply = half.answer({name: np.load(arrays / f"request_{name}.npy")})
    np.save(arrays / "scores.npy", reply["scores"])
else:
    from reticent.inference.split.client import SplitClient
    half = SplitClient.load(folder)
    np.save(arrays / "y.npy", half.decode({"scores": np.load(arrays / "scores.npy")}))
assert not FORBIDDEN & set(sys.modules)
"""


@pytest.mark.parametrize("release", ["code", "noisy"])
def test_each_half_runs_alone_without_torch_or_the_other_half(tmp_path: Path, release: str) -> None:
    """In processes that can't import torch, each with the other's folder deleted."""
    publish(tmp_path / "b", hardened(RELEASES[release]), task(), name="triangle")
    (tmp_path / "arrays").mkdir()
    np.save(tmp_path / "arrays" / "x.npy", X)
    hidden = tmp_path / "hidden"
    for side, mine, other in (
        ("client", "client", "server"),
        ("server", "server", "client"),
        ("decode", "client", "server"),
    ):
        (tmp_path / "b" / other).rename(hidden)
        arguments = [side, str(tmp_path / "b" / mine), str(tmp_path / "arrays")]
        # The client half also does without what only the server needs.
        arguments += ["safetensors", "starlette"] if mine == "client" else []
        ran = subprocess.run(
            [sys.executable, "-c", WITHOUT_TORCH, *arguments],
            capture_output=True,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            timeout=100,
        )
        hidden.rename(tmp_path / "b" / other)
        assert ran.returncode == 0, ran.stderr
    answered = np.load(tmp_path / "arrays" / "y.npy")
    assert (answered == Y).mean() > (0.99 if release == "code" else 0.9)


def test_asking_in_process_gives_the_labels(tmp_path: Path) -> None:
    publish(tmp_path, hardened(code()), task(), name="triangle")
    made = SplitClient.load(tmp_path / "client")
    assert (ask(made, load_server(tmp_path / "server"), X) == Y).mean() > 0.99
