"""The server half answers what its channel allows, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from split_specimens import POINTS, hardened, head, noisy, task

from reticent.errors import BundleError, InputError
from reticent.inference.split.publish import publish
from reticent.inference.split.server import (
    GRAPH_FILE,
    SPEC_FILE,
    TABLE_FILE,
    CodeServer,
    FeatureServer,
    load_server,
)

REQUEST = {"name": "code", "dtype": "uint8", "shape": [-1, 1]}
FEATURES = {"name": "features", "dtype": "float32", "shape": [-1, 2]}
ANSWER = {"name": "scores", "dtype": "float32", "shape": [-1, 3]}
TABLE = np.array([[3, 0, 0], [0, 2, 0], [0, 0, 1], [9, 0, 0]], np.float32)


def code_folder(folder: Path, table: np.ndarray = TABLE, **changes: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    record = {"request": REQUEST, "answer": ANSWER} | changes
    (folder / SPEC_FILE).write_text(json.dumps(record))
    save_file({"table": table}, str(folder / TABLE_FILE))
    return folder


def test_code_k_is_answered_with_row_k(tmp_path: Path) -> None:
    server = load_server(code_folder(tmp_path))
    assert isinstance(server, CodeServer)
    codes = np.array([[3], [0], [2]], np.uint8)
    np.testing.assert_array_equal(server.answer({"code": codes})["scores"], TABLE[[3, 0, 2]])
    assert server.answer({"code": codes[:0]})["scores"].shape == (0, 3)


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"code": np.array([[4]], np.uint8)},
        {"code": np.array([[255]], np.uint8)},
        {"code": np.array([[-1]], np.int8)},
        {"code": np.array([[1]], np.uint16)},
        {"code": np.array([1], np.uint8)},
        {"code": np.array([[1, 1]], np.uint8)},
        {"code": np.array([[1.0]], np.float32)},
        {"features": np.zeros((1, 2), np.float32)},
        {"code": np.array([[1]], np.uint8), "also": np.zeros(3)},
    ],
)
def test_codes_outside_the_alphabet_are_refused(tmp_path: Path, request_: dict[str, Any]) -> None:
    server = load_server(code_folder(tmp_path))
    with pytest.raises(InputError):
        server.answer(request_)


@pytest.mark.parametrize(
    "change",
    [
        {"request": REQUEST | {"dtype": "int8"}},
        {"request": REQUEST | {"shape": [-1, 2]}},
        {"request": REQUEST | {"dtype": "nothing"}},
        {"request": None},
        {"answer": ANSWER | {"shape": [-1, 4]}},
        {"answer": []},
    ],
)
def test_specifications_that_do_not_fit_are_refused(tmp_path: Path, change: Any) -> None:
    """An int8 code of -1 would read the table from its end."""
    with pytest.raises(BundleError):
        load_server(code_folder(tmp_path, **change))


@pytest.mark.parametrize(
    "table",
    [
        TABLE.astype(np.float64),
        TABLE[:, :2],
        TABLE[0],
        np.full((3, 3), np.nan, np.float32),
        np.full((3, 3), np.inf, np.float32),
    ],
)
def test_tables_that_do_not_fit_are_refused(tmp_path: Path, table: np.ndarray) -> None:
    with pytest.raises(BundleError):
        load_server(code_folder(tmp_path, np.ascontiguousarray(table)))


@pytest.mark.parametrize("name", [SPEC_FILE, TABLE_FILE])
@pytest.mark.parametrize("content", [None, b"", b"{", b"[" * 200_000])
def test_damaged_files_are_refused(tmp_path: Path, name: str, content: bytes | None) -> None:
    path = code_folder(tmp_path) / name
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BundleError):
        load_server(tmp_path)


@pytest.fixture(scope="module")
def feature_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("features")
    publish(folder, hardened(noisy()), task(), name="triangle")
    return folder / "server"


def test_features_are_answered_by_the_head(feature_folder: Path) -> None:
    server = load_server(feature_folder)
    assert isinstance(server, FeatureServer)
    features = np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32)
    with torch.no_grad():
        want = head()(torch.from_numpy(features)).numpy()
    got = server.answer({"features": features})["scores"]
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    assert server.answer({"features": POINTS})["scores"].argmax(axis=1).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    "features",
    [
        np.full((1, 2), np.nan, np.float32),
        np.full((1, 2), -np.inf, np.float32),
        np.zeros((1, 3), np.float32),
        np.zeros((1, 2), np.float64),
        np.zeros((0, 2), np.float32),
    ],
)
def test_features_of_another_kind_are_refused(feature_folder: Path, features: np.ndarray) -> None:
    with pytest.raises(InputError):
        load_server(feature_folder).answer({"features": features})


def test_a_head_that_does_not_fit_its_specification_is_refused(
    feature_folder: Path, tmp_path: Path
) -> None:
    content = (feature_folder / GRAPH_FILE).read_bytes()
    for change in (
        {"request": FEATURES | {"shape": [-1, 3]}},
        {"answer": ANSWER | {"shape": [-1, 4]}},
    ):
        record = {"request": FEATURES, "answer": ANSWER} | change
        (tmp_path / SPEC_FILE).write_text(json.dumps(record))
        (tmp_path / GRAPH_FILE).write_bytes(content)
        with pytest.raises(BundleError):
            load_server(tmp_path)
