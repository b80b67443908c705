"""The plain channel's two halves: the input goes over, the whole model answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reticent.data.task import Kind
from reticent.errors import InputError
from reticent.inference.channel import Tensors, TensorSpec, decode_scores
from reticent.inference.graph import Graph


class PlainClient:
    """Sends the input as it is."""

    def __init__(self, answer: TensorSpec, kind: Kind) -> None:
        self._answer, self._kind = answer, kind

    def encode(self, x: NDArray[np.float32]) -> Tensors:
        """The request: the inputs themselves."""
        return {"x": np.asarray(x, dtype=np.float32)}

    def decode(self, reply: Tensors) -> NDArray[Any]:
        """Answers from scores (batch, outputs)."""
        return decode_scores(reply, self._answer, self._kind)


class PlainServer:
    """Runs the whole model on inputs of shape (batch, *shape)."""

    cheap = False

    def __init__(self, graph: Graph, answer: TensorSpec) -> None:
        self._graph = graph
        self.inputs = (TensorSpec(name="x", dtype="float32", shape=(None, *graph.shape)),)
        self.outputs = (answer,)

    @classmethod
    def load(cls, path: Path, answer: TensorSpec) -> PlainServer:
        """The server for the model graph at `path`."""
        return cls(Graph(path), answer)

    def answer(self, request: Tensors) -> Tensors:
        """Scores (batch, outputs); raises `InputError` for anything but one matching input."""
        x = request.get("x")
        if x is None or len(request) != 1 or not self.inputs[0].matches(x):
            raise InputError(f"Expected exactly the input {self.inputs[0]}, got {sorted(request)}.")
        if not np.isfinite(x).all():
            raise InputError("Expected finite inputs, got NaN or infinity.")
        return {self.outputs[0].name: self._graph(x)}
