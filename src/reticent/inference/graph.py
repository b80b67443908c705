"""An ONNX graph as a function of arrays: one input "x", one output "y", one thread."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reticent.errors import BundleError, InputError, MissingExtraError
from reticent.inference.operators import check_operators


class Graph:
    """Runs a graph that is a pure function of its batch (see `operators`).

    Raises `BundleError` for any other kind of file.
    """

    def __init__(self, path: Path) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingExtraError("onnxruntime", "client") from error
        try:
            content = path.read_bytes()
        except OSError as error:
            raise BundleError(f"{path.name!r} can't be read: {error}") from error
        check_operators(content)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        try:
            self._session: Any = onnxruntime.InferenceSession(
                content, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise BundleError(f"{path.name!r} is no valid ONNX graph: {error}") from error
        ends = [
            (value.name, value.type)
            for value in (*self._session.get_inputs(), *self._session.get_outputs())
        ]
        if ends != [("x", "tensor(float)"), ("y", "tensor(float)")]:
            raise BundleError(f"Expected a graph from float32 x to float32 y, got {ends}.")
        self.shape = tuple(self._session.get_inputs()[0].shape[1:])

    def __call__(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Output (batch, ...) for `x` (batch, *shape).

        Raises `InputError` for another shape, `BundleError` when the graph itself fails.
        """
        if x.dtype != np.float32 or x.shape[1:] != self.shape or len(x) == 0:
            raise InputError(
                f"Expected float32 records of shape (batch, {', '.join(map(str, self.shape))}), "
                f"got dtype={x.dtype}, shape={x.shape}."
            )
        try:
            made = self._session.run(["y"], {"x": np.ascontiguousarray(x)})[0]
        except Exception as error:
            raise BundleError(f"The graph fails on {len(x)} well-formed records.") from error
        return np.asarray(made, dtype=np.float32)
