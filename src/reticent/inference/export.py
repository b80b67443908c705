"""A network as an ONNX graph that names neither the provider's code nor its machine."""

from __future__ import annotations

import contextlib
import io
import logging
import math
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn

from reticent.errors import BundleError, MissingExtraError, UnsupportedError
from reticent.inference.operators import DOMAINS, check_operators


def export(module: nn.Module, sample: torch.Tensor, path: Path, *, tolerance: float = 1e-3) -> None:
    """Write `module` to `path`, input "x" and output "y", batch size free.

    `sample` is one input, shape (1, ...). The file is written only after a check: it holds no
    metadata and no random operator, and agrees with `module` within `tolerance` times the largest
    output, on the sample and on random inputs, alone and in a batch. Raises `BundleError`
    otherwise, `UnsupportedError` for a module that torch can't export.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401  torch.onnx needs it and says so only late
    except ImportError as error:
        raise MissingExtraError("onnx and onnxscript", "publish") from error

    module = module.eval()
    pair = torch.cat([sample, sample])
    batch = torch.export.Dim("batch", min=1, max=1 << 20)
    quiet = logging.getLogger("torch.onnx")
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module,
                (pair,),
                dynamo=True,
                external_data=False,
                verbose=False,
                input_names=["x"],
                output_names=["y"],
                dynamic_shapes=({0: batch},),
            )
    except torch.onnx.OnnxExporterError as error:
        raise UnsupportedError(
            f"Not yet: torch.onnx can't export this {type(module).__name__}. "
            "Use layers whose operators ONNX has."
        ) from error
    finally:
        quiet.setLevel(level)
    if program is None:
        raise BundleError("torch.onnx.export returned no program for this module.")
    graph = program.model_proto
    strip(graph)
    onnx.checker.check_model(graph)
    data = graph.SerializeToString(deterministic=True)
    _compare(module, sample, data, tolerance)
    path.write_bytes(data)


def strip(model: object) -> None:
    """Remove, in place, everything that isn't arithmetic: names, doc strings, metadata.

    Raises `BundleError` for graphs that a client would refuse (see `operators`).
    """
    from onnx import AttributeProto, ModelProto

    assert isinstance(model, ModelProto)
    # The exporter writes torch's own function library along, used or not.
    del model.functions[:]
    check_operators(model.SerializeToString())
    keep = [entry for entry in model.opset_import if entry.domain in DOMAINS]
    del model.opset_import[:]
    model.opset_import.extend(keep)
    del model.metadata_props[:]
    model.producer_name, model.producer_version = "reticent", ""
    model.domain, model.doc_string = "", ""
    graph = model.graph
    graph.name, graph.doc_string = "encoder", ""
    del graph.metadata_props[:]
    del graph.value_info[:]
    del graph.quantization_annotation[:]
    if len(graph.input) != 1 or len(graph.output) != 1:
        raise BundleError(
            f"Expected one input and one output, got {len(graph.input)} and {len(graph.output)}."
        )
    renamed = {graph.input[0].name: "x", graph.output[0].name: "y"}
    for tensor in graph.initializer:
        renamed.setdefault(tensor.name, f"w{len(renamed)}")
        tensor.name, tensor.doc_string = renamed[tensor.name], ""
        del tensor.metadata_props[:]
    for index, node in enumerate(graph.node):
        node.name, node.doc_string = f"n{index}", ""
        del node.metadata_props[:]
        for attribute in node.attribute:
            attribute.doc_string = ""
            if attribute.type == AttributeProto.TENSOR:
                attribute.t.name, attribute.t.doc_string = "", ""
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                if name:
                    names[place] = renamed.setdefault(name, f"t{len(renamed)}")
    for value in (*graph.input, *graph.output):
        value.name, value.doc_string = renamed[value.name], ""
        del value.metadata_props[:]


def _compare(module: nn.Module, sample: torch.Tensor, data: bytes, tolerance: float) -> None:
    import onnxruntime

    generator = torch.Generator().manual_seed(0)
    spread = float(sample.abs().max().clamp(min=1.0))
    shape = (2, *sample.shape[1:])
    rows = torch.cat([sample, sample + spread * torch.randn(shape, generator=generator)])

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    for batch in (rows, rows[1:2]):
        got = session.run(["y"], {"x": batch.numpy()})[0]
        with torch.no_grad():
            want = module(batch).numpy()
        gap = float(np.abs(got - want).max()) if got.shape == want.shape else math.inf
        if not gap <= tolerance * max(1.0, float(np.abs(want).max())):
            raise BundleError(f"The exported graph differs from the model by {gap:g}.")
