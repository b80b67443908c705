"""A bundle is whole, unchanged and inside its folder, or it is refused."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from split_specimens import spec

from reticent.errors import BundleError, ConfigError
from reticent.guarantee import SERVER, Guarantee, InformationBound, Pillar
from reticent.inference.bundle import MANIFEST, Bundle, digest, load, write

CLAIM = Guarantee(
    id="input/server/x",
    pillar=Pillar.INPUT,
    adversary=SERVER,
    strength=InformationBound(nats=0.0, total_variation=0.0, scope="total", worst_case=True),
    mechanism="x",
    assumptions=("one",),
    source="here",
)
CONTENT = {
    "client/spec.json": json.dumps(spec().to_json()).encode(),
    "client/encoder.onnx": bytes(range(200)),
    "server/spec.json": b"{}",
    "report.html": b"<p>",
}
FACTS: dict[str, Any] = {"name": "m", "channel": "split", "guarantees": [CLAIM.to_json()]}


def fill(folder: Path) -> Mapping[str, Any]:
    for name, content in CONTENT.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    return {"version": "v1"}


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return write(tmp_path / "out", FACTS, fill)


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_was_written_is_what_is_loaded(bundle: Bundle) -> None:
    again = load(bundle.folder)
    assert (again.name, again.version, again.channel) == ("m", "v1", "split")
    assert again.guarantees == (CLAIM,)
    assert set(again.manifest["digests"]) == set(CONTENT)
    assert (again.client / "encoder.onnx").read_bytes() == CONTENT["client/encoder.onnx"]
    assert (again.server / "spec.json").exists()
    assert leftovers(bundle.folder.parent) == ["out"]


@pytest.mark.parametrize("name", CONTENT)
def test_one_flipped_bit_anywhere_is_noticed(bundle: Bundle, name: str) -> None:
    path = bundle.folder / name
    whole = path.read_bytes()
    for place in {0, len(whole) // 2, len(whole) - 1}:
        damaged = bytearray(whole)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(BundleError, match="digest"):
            load(bundle.folder)
    path.write_bytes(whole)
    load(bundle.folder)


@pytest.mark.parametrize("name", CONTENT)
def test_a_missing_file_is_noticed(bundle: Bundle, name: str) -> None:
    (bundle.folder / name).unlink()
    with pytest.raises(BundleError, match="lacks"):
        load(bundle.folder)


@pytest.mark.parametrize(
    "name", ["extra.txt", "client/extra.txt", f"client/{MANIFEST}", "new/deep/file"]
)
def test_an_added_file_is_noticed_even_one_named_like_the_manifest(
    bundle: Bundle, name: str
) -> None:
    (bundle.folder / name).parent.mkdir(parents=True, exist_ok=True)
    (bundle.folder / name).write_bytes(b"x")
    with pytest.raises(BundleError, match="doesn't name"):
        load(bundle.folder)


def link_to_file(folder: Path) -> None:
    outside = folder.parent / "outside"
    shutil.copy(folder / "report.html", outside)
    (folder / "report.html").unlink()
    (folder / "report.html").symlink_to(outside)


def link_to_folder(folder: Path) -> None:
    (folder.parent / "elsewhere").mkdir()
    (folder / "client" / "more").symlink_to(folder.parent / "elsewhere")


def dangling(folder: Path) -> None:
    (folder / "gone").symlink_to("nowhere")


def pipe(folder: Path) -> None:
    os.mkfifo(folder / "pipe")


@pytest.mark.parametrize("harm", [link_to_file, link_to_folder, dangling, pipe])
def test_links_and_pipes_are_refused(bundle: Bundle, harm: Callable[[Path], None]) -> None:
    """A linked file could be changed after its digest was checked."""
    harm(bundle.folder)
    with pytest.raises(BundleError, match="no plain file"):
        load(bundle.folder)


def rewrite(bundle: Bundle, change: Mapping[str, Any]) -> None:
    record = json.loads((bundle.folder / MANIFEST).read_text())
    (bundle.folder / MANIFEST).write_text(json.dumps(record | dict(change)))


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "client/../../secret"])
def test_digests_cannot_point_outside_the_bundle(bundle: Bundle, name: str) -> None:
    (bundle.folder.parent / "secret").write_bytes(b"x")
    known = digest(bundle.folder.parent / "secret")
    rewrite(bundle, {"digests": bundle.manifest["digests"] | {name: known}})
    with pytest.raises(BundleError, match="lacks"):
        load(bundle.folder)


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 2},
        {"schema": None},
        {"digests": []},
        {"digests": None},
        {"digests": {"report.html": 5}},
        {"name": 3},
        {"version": None},
        {"channel": ["split"]},
        {"guarantees": None},
        {"guarantees": [{"id": "x"}]},
        {"guarantees": [CLAIM.to_json() | {"pillar": "everything"}]},
        {"guarantees": [CLAIM.to_json() | {"strength": {"kind": "perfect"}}]},
    ],
)
def test_a_malformed_manifest_is_refused(bundle: Bundle, change: Mapping[str, Any]) -> None:
    rewrite(bundle, change)
    with pytest.raises(BundleError):
        load(bundle.folder)


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"null", b"{", b"\xff\xfe", b"[" * 200_000, b" " * (16 * 2**20 + 2)],
    ids=["empty", "list", "null", "cut", "no text", "deep", "huge"],
)
def test_an_unreadable_manifest_is_refused(bundle: Bundle, content: bytes) -> None:
    (bundle.folder / MANIFEST).write_bytes(content)
    with pytest.raises(BundleError):
        load(bundle.folder)


def test_no_folder_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no bundle"):
        load(tmp_path / "nothing")


def interrupted(folder: Path) -> Mapping[str, Any]:
    fill(folder)
    raise KeyboardInterrupt


def linking(folder: Path) -> Mapping[str, Any]:
    (folder / "link").symlink_to("/")
    return fill(folder)


def infinite(folder: Path) -> Mapping[str, Any]:
    return {**fill(folder), "cost": float("inf")}


def versionless(folder: Path) -> Mapping[str, Any]:
    fill(folder)
    return {}


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        (interrupted, KeyboardInterrupt),
        (linking, BundleError),
        (infinite, ValueError),
        (versionless, BundleError),
    ],
)
@pytest.mark.parametrize("before", [False, True])
def test_writing_leaves_the_new_bundle_or_exactly_the_old_one(
    tmp_path: Path,
    wrong: Callable[[Path], Mapping[str, Any]],
    error: type[BaseException],
    before: bool,
) -> None:
    if before:
        write(tmp_path / "out", FACTS | {"name": "old"}, fill)
    with pytest.raises(error):
        write(tmp_path / "out", FACTS, wrong, force=True)
    assert leftovers(tmp_path) == (["out"] if before else [])
    if before:
        assert load(tmp_path / "out").name == "old"


def test_force_replaces_a_bundle_whole(tmp_path: Path) -> None:
    write(tmp_path / "out", FACTS | {"name": "old"}, lambda f: {**fill(f), "more": 1})
    with pytest.raises(ConfigError, match="exists"):
        write(tmp_path / "out", FACTS, fill)
    write(tmp_path / "out", FACTS, fill, force=True)
    assert load(tmp_path / "out").name == "m"
    assert "more" not in load(tmp_path / "out").manifest
    assert leftovers(tmp_path) == ["out"]


def test_the_old_bundle_comes_back_when_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "out", FACTS | {"name": "old"}, fill)
    rename, moves = Path.rename, []

    def failing(self: Path, target: Path) -> Path:
        moves.append(self.name)
        if len(moves) == 2:
            raise OSError("disk gone")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OSError, match="disk gone"):
        write(tmp_path / "out", FACTS, fill, force=True)
    assert leftovers(tmp_path) == ["out"]
    assert load(tmp_path / "out").name == "old"


@pytest.mark.parametrize("force", [False, True])
def test_what_is_no_bundle_is_never_replaced(tmp_path: Path, force: bool) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1").write_text("years of work")
    with pytest.raises(ConfigError, match="no bundle"):
        write(tmp_path / "thesis", FACTS, fill, force=force)
    (tmp_path / "file").write_text("work")
    with pytest.raises(ConfigError, match="no bundle"):
        write(tmp_path / "file", FACTS, fill, force=force)
    assert (tmp_path / "thesis" / "chapter1").read_text() == "years of work"


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    write(tmp_path / "out", FACTS, fill)
    assert load(tmp_path / "out").name == "m"
