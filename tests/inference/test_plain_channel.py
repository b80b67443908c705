"""The plain channel answers as the model does, and hides nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from split_specimens import records

from reticent.data.task import Kind
from reticent.errors import BundleError, InputError
from reticent.inference.channel import Tensors, TensorSpec, ask
from reticent.inference.export import export
from reticent.inference.plain.channel import PlainClient, PlainServer
from reticent.transcript import Transcript

ANSWER = TensorSpec(name="scores", dtype="float32", shape=(None, 3))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> tuple[torch.nn.Module, PlainServer]:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    path: Path = tmp_path_factory.mktemp("plain") / "model.onnx"
    export(model.eval(), torch.zeros(1, 4), path)
    return model, PlainServer.load(path, ANSWER)


def test_answers_are_the_models_and_the_server_sees_the_input(
    served: tuple[torch.nn.Module, PlainServer],
) -> None:
    model, server = served
    x, _ = records(40)
    transcript = Transcript()
    got = ask(PlainClient(ANSWER, Kind.CLASSIFICATION), server, x, transcript=transcript)
    with torch.no_grad():
        want = model(torch.from_numpy(x)).argmax(dim=1).numpy()
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(next(iter(transcript)).payload, x)


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"y": np.zeros((1, 4), np.float32)},
        {"x": np.zeros((1, 5), np.float32)},
        {"x": np.zeros((1, 4), np.float64)},
        {"x": np.zeros((1, 4), np.float32), "more": np.zeros(1)},
        {"x": np.full((1, 4), np.nan, np.float32)},
        {"x": np.zeros((0, 4), np.float32)},
    ],
)
def test_malformed_inputs_are_refused(
    served: tuple[torch.nn.Module, PlainServer], request_: Tensors
) -> None:
    with pytest.raises(InputError):
        served[1].answer(request_)


def test_a_reply_of_the_wrong_width_is_refused() -> None:
    with pytest.raises(BundleError):
        PlainClient(ANSWER, Kind.CLASSIFICATION).decode({"scores": np.zeros((1, 2), np.float32)})
