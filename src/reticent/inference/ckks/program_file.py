"""A polynomial network as one file: arrays and their arrangement, no code."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from reticent.errors import BundleError, ConfigError
from reticent.inference.ckks.program import (
    Add,
    Convolution,
    Linear,
    Operation,
    Polynomial,
    Program,
    Step,
    Values,
)

_SCHEMA = 1


def save(path: Path, program: Program) -> None:
    """Write `program` as npz: a JSON description and float64 arrays."""
    steps: list[dict[str, Any]] = []
    arrays: dict[str, Values] = {}
    for index, step in enumerate(program.steps):
        described, values = _described(step.operation)
        steps.append({**described, "sources": list(step.sources)})
        arrays |= {f"{index}.{name}": array for name, array in values.items()}
    record = {
        "schema": _SCHEMA,
        "shape": list(program.input_shape),
        "bound": program.bound,
        "steps": steps,
    }
    text = np.frombuffer(json.dumps(record, allow_nan=False).encode(), dtype=np.uint8)
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, program=text, **arrays)


def load(path: Path) -> Program:
    """The program that `save` wrote. Raises `BundleError` for anything else."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            record = json.loads(stored["program"].tobytes())
            arrays = {name: stored[name] for name in stored.files if name != "program"}
        if record["schema"] != _SCHEMA:
            raise ValueError(f"schema={record['schema']!r}")
        if not all(a.dtype == np.float64 and np.isfinite(a).all() for a in arrays.values()):
            raise ValueError("weights that are no finite float64 numbers")
        steps = tuple(
            Step(
                operation=_operation(step, {n: arrays[f"{i}.{n}"] for n in _ARRAYS[step["kind"]]}),
                sources=tuple(int(source) for source in step["sources"]),
            )
            for i, step in enumerate(record["steps"])
        )
        shape = tuple(int(size) for size in record["shape"])
        return Program(input_shape=shape, steps=steps, bound=float(record["bound"]))
    except (OSError, KeyError, TypeError, ValueError, zipfile.BadZipFile, ConfigError) as error:
        raise BundleError(
            f"{path.name!r} holds no polynomial network: {error}. Publish the bundle again."
        ) from error


_ARRAYS: Mapping[str, tuple[str, ...]] = {
    "linear": ("weight", "bias"),
    "convolution": ("weight", "bias"),
    "polynomial": ("coefficients",),
    "add": (),
}


def _described(operation: Operation) -> tuple[dict[str, Any], dict[str, Values]]:
    if isinstance(operation, Linear):
        return _named("linear", operation), {"weight": operation.weight, "bias": operation.bias}
    if isinstance(operation, Convolution):
        geometry = {
            "stride": list(operation.stride),
            "padding": list(operation.padding),
            "dilation": list(operation.dilation),
            "groups": operation.groups,
        }
        arrays = {"weight": operation.weight, "bias": operation.bias}
        return {**_named("convolution", operation), **geometry}, arrays
    if isinstance(operation, Polynomial):
        return _named("polynomial", operation), {"coefficients": operation.coefficients}
    return _named("add", operation), {}


def _named(kind: str, operation: Operation) -> dict[str, Any]:
    return {"kind": kind, "name": operation.name}


def _operation(record: Mapping[str, Any], arrays: Mapping[str, Values]) -> Operation:
    kind, name = record["kind"], str(record["name"])
    if kind == "linear":
        return Linear(name=name, **arrays)
    if kind == "convolution":
        return Convolution(
            name=name,
            **arrays,
            stride=_pair(record["stride"]),
            padding=_pair(record["padding"]),
            dilation=_pair(record["dilation"]),
            groups=int(record["groups"]),
        )
    return Polynomial(name=name, **arrays) if kind == "polynomial" else Add(name=name)


def _pair(values: Any) -> tuple[int, int]:
    first, second = values
    return int(first), int(second)
