"""Client files: digests bind content, and no name leads out of the folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from reticent.errors import BundleError
from reticent.service.client_files import ClientListing, read_client_files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "client"
    made.mkdir()
    (made / "encoder.onnx").write_bytes(b"weights")
    (made / "spec.json").write_bytes(b"{}")
    return made


def test_the_digest_changes_with_any_name_or_content(folder: Path) -> None:
    digests = {read_client_files(folder)[0].digest}
    (folder / "spec.json").write_bytes(b"{ }")
    digests.add(read_client_files(folder)[0].digest)
    (folder / "spec.json").rename(folder / "spec2.json")
    digests.add(read_client_files(folder)[0].digest)
    (folder / "encoder.onnx").unlink()
    digests.add(read_client_files(folder)[0].digest)
    assert len(digests) == 4


def test_contents_are_kept_as_listed_whatever_happens_to_the_folder(folder: Path) -> None:
    listing, contents = read_client_files(folder)
    (folder / "encoder.onnx").write_bytes(b"changed")
    for file in listing.files:
        file.check(contents[file.name])
    with pytest.raises(BundleError, match="encoder"):
        listing.files[0].check(b"changed")


def test_links_folders_and_odd_names_are_refused(folder: Path) -> None:
    for name in ("link", "folder", ".hidden", "a b"):
        path = folder / name
        if name == "link":
            path.symlink_to(folder / "spec.json")
        elif name == "folder":
            path.mkdir()
        else:
            path.write_bytes(b"")
        with pytest.raises(BundleError, match="plain files"):
            read_client_files(folder)
        path.rmdir() if name == "folder" else path.unlink()


def test_listings_survive_json(folder: Path) -> None:
    listing, _ = read_client_files(folder)
    assert ClientListing.from_json(listing.to_json()) == listing


@pytest.mark.parametrize(
    "change",
    [
        {"name": "../../.profile"},
        {"name": "/etc/passwd"},
        {"name": "a/b"},
        {"name": ".."},
        {"name": ""},
        {"sha256": "0"},
        {"size": -1},
        {"size": 2**40},
        {"size": "many"},
    ],
)
def test_a_hostile_listing_is_refused(folder: Path, change: dict[str, object]) -> None:
    record = {**read_client_files(folder)[0].to_json()[0], **change}
    with pytest.raises(BundleError):
        ClientListing.from_json([record])
    for junk in (None, 3, [3], [{}], {"a": 1}):
        with pytest.raises(BundleError):
            ClientListing.from_json(junk)
