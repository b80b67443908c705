"""The server half: answers codes from a table, features with the head's graph."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reticent.errors import BundleError, InputError, MissingExtraError
from reticent.inference.channel import Tensors, TensorSpec
from reticent.inference.graph import Graph

SPEC_FILE, TABLE_FILE, GRAPH_FILE = "spec.json", "answers.safetensors", "head.onnx"


class CodeServer:
    """Answers code k with row k of a table (K, outputs), precomputed by the head at publishing."""

    cheap = True

    def __init__(self, request: TensorSpec, answer: TensorSpec, table: NDArray[np.float32]) -> None:
        self.inputs, self.outputs = (request,), (answer,)
        self.table = table

    def answer(self, request: Tensors) -> Tensors:
        """Scores (batch, outputs); raises `InputError` for a code outside the alphabet."""
        codes = _only(request, self.inputs[0])[:, 0]
        if codes.size and int(codes.max()) >= len(self.table):
            raise InputError(f"Expected codes below {len(self.table)}, got code={codes.max()}.")
        return {self.outputs[0].name: self.table[codes]}


class FeatureServer:
    """Answers features with the model's second half."""

    cheap = False

    def __init__(self, request: TensorSpec, answer: TensorSpec, graph: Graph) -> None:
        self.inputs, self.outputs = (request,), (answer,)
        self._graph = graph
        if graph.shape != tuple(request.shape[1:]):
            raise BundleError(
                f"The head takes shape={graph.shape}, requests have shape={request.shape[1:]}."
            )
        trial = graph(np.zeros((1, *graph.shape), dtype=np.float32))
        if not answer.matches(trial):
            raise BundleError(f"The head answers {trial.shape}, its specification says {answer}.")

    def answer(self, request: Tensors) -> Tensors:
        """Scores (batch, outputs); raises `InputError` for features that are not finite."""
        features = _only(request, self.inputs[0])
        if not np.isfinite(features).all():
            raise InputError("Expected finite features, got NaN or infinity.")
        return {self.outputs[0].name: self._graph(features)}


def load_server(folder: Path) -> CodeServer | FeatureServer:
    """The server half in `folder`; the client half's files are not needed, nor looked at.

    Raises `BundleError` when files are missing, malformed, or don't fit together.
    """
    try:
        record = json.loads((folder / SPEC_FILE).read_text())
        request = TensorSpec.from_json(record["request"])
        answer = TensorSpec.from_json(record["answer"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise BundleError(f"No readable {SPEC_FILE} in {folder.name!r}: {error!r}") from error
    if (folder / GRAPH_FILE).exists():
        return FeatureServer(request, answer, Graph(folder / GRAPH_FILE))
    try:
        from safetensors.numpy import load_file
    except ImportError as error:
        raise MissingExtraError("safetensors", "serve") from error
    try:
        table = load_file(str(folder / TABLE_FILE))["table"]
    except Exception as error:
        raise BundleError(f"No readable {TABLE_FILE} in {folder.name!r}: {error}") from error
    if table.ndim != 2 or table.dtype != np.float32 or table.shape[1:] != answer.shape[1:]:
        raise BundleError(f"The answer table has shape={table.shape}, replies {answer.shape}.")
    if request.dtype not in ("uint8", "uint16") or request.shape != (None, 1):
        raise BundleError(f"Expected requests of one unsigned code each, got {request}.")
    if not np.isfinite(table).all():
        raise BundleError("The answer table holds NaN or infinity.")
    return CodeServer(request, answer, table)


def _only(request: Tensors, spec: TensorSpec) -> NDArray[Any]:
    value = request.get(spec.name)
    if value is None or len(request) != 1 or not spec.matches(value):
        got = {name: f"{array.dtype}{list(array.shape)}" for name, array in request.items()}
        raise InputError(f"Expected exactly the input {spec}, got {got}.")
    return value
