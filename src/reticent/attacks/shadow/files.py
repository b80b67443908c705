"""Named arrays and a card of texts in one safetensors file, written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reticent.errors import DataError, MissingExtraError


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]], card: Mapping[str, str]) -> None:
    """Write `arrays` and `card`; a reader sees the old file or the new one, never a part."""
    try:
        from safetensors.numpy import save
    except ImportError as error:
        raise MissingExtraError("safetensors", "torch") from error
    content = save({n: np.ascontiguousarray(a) for n, a in arrays.items()}, dict(card))
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(partial, path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise


def read_arrays(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """The arrays and the card that `write_arrays` wrote. Raises `DataError` for other files."""
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise MissingExtraError("safetensors", "torch") from error
    try:
        with safe_open(str(path), framework="np") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return arrays, file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise DataError(f"Expected a safetensors file at {path.name!r}: {error}.") from error
