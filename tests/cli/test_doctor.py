"""The doctor: agrees with pyproject.toml, states remedies, fails when something fails."""

from __future__ import annotations

import json
import os
import re
import tomllib
from pathlib import Path

import pytest

from reticent.cli import app, doctor
from reticent.cli.doctor import EXTRAS, examine, release
from reticent.cli.frame import call

PROJECT = Path(__file__).parents[2] / "pyproject.toml"


def checks(**kwargs: Path) -> dict[str, doctor.Check]:
    return {check.name: check for check in examine(**kwargs)}


def test_extras_agree_with_pyproject() -> None:
    extras = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    stated = {
        extra: dict(
            re.fullmatch(r"([A-Za-z0-9-]+)>=([0-9.]+).*", item).groups()  # type: ignore[union-attr]
            for item in requirements
            if not item.startswith("reticent[")
        )
        for extra, requirements in extras.items()
        if extra not in ("all", "dev")
    }
    assert stated == EXTRAS


def test_this_machine_is_examined_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    found = checks()
    assert {"python", "torch build", "threads", "secure randomness", "clock"} <= found.keys()
    assert {f"extra {name}" for name in EXTRAS} <= found.keys()
    for name in ("python", "secure randomness", "clock", "loopback socket", "temporary folder"):
        assert found[name].state == "ok", found[name]
    assert all(check.remedy for check in found.values() if check.state == "failed")


def test_failures_exit_2_and_name_the_remedy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    assert call(app, ["doctor", "--json"]) == 2
    record = json.loads(capsys.readouterr().out)
    assert record["healthy"] is False
    assert record["failed"] == ["threads"]
    assert call(app, ["doctor"]) == 2
    assert "threads" in capsys.readouterr().out
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert call(app, ["doctor", "--json"]) == 0


def test_missing_and_old_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"onnxruntime": None, "torch": "2.5.9", "onnx": "1.16", "onnxscript": "0.2.0"}
    monkeypatch.setattr(doctor, "_version", lambda package: versions.get(package, "99.0"))
    found = checks()
    assert found["extra client"].state == "absent"
    assert "pip install 'reticent[client]'" in found["extra client"].remedy
    assert found["extra torch"].state == "failed"
    assert "torch >= 2.6" in found["extra torch"].remedy
    assert found["extra publish"].state == "ok"


@pytest.mark.parametrize(
    ("versions", "build"),
    [
        ({"torch": "2.13.0+cpu"}, "CPU"),
        ({"torch": "2.13.0"}, "CPU"),
        ({"torch": "2.13.0+cu128"}, "CUDA"),
        ({"torch": "2.13.0", "nvidia-cuda-runtime-cu12": "12.8"}, "CUDA"),
        ({"torch": "2.13.0+cpu", "nvidia-cuda-runtime-cu12": "12.8"}, "CPU"),
    ],
)
def test_torch_builds(
    versions: dict[str, str], build: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_version", versions.get)
    assert checks()["torch build"].found.endswith(f"({build})")


def test_a_broken_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "urandom", bytes)
    monkeypatch.setattr(doctor.time, "time", lambda: 0.0)
    monkeypatch.setattr(doctor, "PYTHON_AT_LEAST", (99, 0))
    monkeypatch.setenv("RETICENT_DATA", str(tmp_path / "absent"))

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no sockets here")

    monkeypatch.setattr(doctor.socket, "create_server", refuse)
    found = {}
    for check in (
        doctor._python(),
        doctor._randomness(),
        doctor._clock(),
        doctor._data_folder(),
        doctor._loopback(),
    ):
        found[check.name] = check.state
        assert check.remedy
    assert set(found.values()) == {"failed"}


def test_folders_are_tried_by_writing(tmp_path: Path) -> None:
    assert checks(out=tmp_path / "new" / "deep")["output folder"].state == "ok"
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").write_text("")
    assert checks(out=tmp_path / "file")["output folder"].state == "failed"


@pytest.mark.parametrize(
    ("version", "expected"), [("2.13.0+cpu", (2, 13, 0)), ("16", (16,)), ("1.0rc1", (1, 0))]
)
def test_release_numbers(version: str, expected: tuple[int, ...]) -> None:
    assert release(version) == expected
