"""A deployment on disk: what `run` writes, what `serve` reads, what a client is handed.

manifest.json   versions, digests of every other file, guarantees, costs, recipe
client/         encoder.onnx, spec.json: all that a client needs
server/         spec.json and the answer table or head.onnx; never the client's graph
scorecard.json  report.html  card.md

No file can execute on loading: JSON, ONNX graphs without foreign operators, safetensors. Digests
show that a bundle is whole and unchanged since its manifest was written; they don't show who wrote
the manifest.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reticent.errors import BundleError, ConfigError
from reticent.guarantee import Guarantee

SCHEMA = 1
MANIFEST = "manifest.json"
_LARGEST_MANIFEST = 16 * 2**20


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A bundle whose digests have been checked."""

    folder: Path
    manifest: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The model's name on the wire."""
        return str(self.manifest["name"])

    @property
    def version(self) -> str:
        """The pair of halves that belong together."""
        return str(self.manifest["version"])

    @property
    def channel(self) -> str:
        """Which channel the halves speak."""
        return str(self.manifest["channel"])

    @property
    def guarantees(self) -> tuple[Guarantee, ...]:
        """What the deployment claims."""
        return tuple(Guarantee.from_json(entry) for entry in self.manifest["guarantees"])

    @property
    def client(self) -> Path:
        """The folder that a client is handed."""
        return self.folder / "client"

    @property
    def server(self) -> Path:
        """The folder that the server loads."""
        return self.folder / "server"


def write(
    folder: Path,
    manifest: Mapping[str, Any],
    fill: Callable[[Path], Mapping[str, Any]],
    *,
    force: bool = False,
) -> Bundle:
    """Make a bundle at `folder`, whole or not at all.

    `fill` writes every file but the manifest into the folder it is given, and returns what it
    learnt on the way for the manifest. Digests are taken last and the folder is moved into place
    in one step, after an older bundle has been moved aside. Raises `ConfigError` when `folder`
    exists and is no bundle, or exists and `force` is not given; `BundleError` when `fill` made
    what `load` would refuse.
    """
    check_place(folder, force=force)
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        work.chmod(0o750)
        learnt = fill(work)
        digests = {name: digest(work / name) for name in sorted(_files(work) - {MANIFEST})}
        record = {"schema": SCHEMA, **manifest, **learnt, "digests": digests}
        _check_manifest(record, folder.name)
        (work / MANIFEST).write_text(json.dumps(record, indent=2, allow_nan=False) + "\n")
        _replace(folder, work)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    return Bundle(folder=folder, manifest=record)


def load(folder: Path) -> Bundle:
    """The bundle at `folder`, every digest checked. Raises `BundleError` for any difference."""
    try:
        with (folder / MANIFEST).open(encoding="utf-8") as file:
            text = file.read(_LARGEST_MANIFEST + 1)
        if len(text) > _LARGEST_MANIFEST:
            raise ValueError(f"it has more than {_LARGEST_MANIFEST} characters")
        manifest = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(
            f"{folder.name!r} is no bundle: its {MANIFEST} can't be read ({error})."
        ) from error
    _check_manifest(manifest, folder.name)
    digests, present = manifest["digests"], _files(folder) - {MANIFEST}
    for name in sorted(present | set(digests)):
        if name not in present:
            raise BundleError(f"The bundle lacks {name!r}. Get it again from its provider.")
        if name not in digests:
            raise BundleError(f"The bundle holds {name!r}, which its manifest doesn't name.")
        if digest(folder / name) != digests[name]:
            raise BundleError(f"{name!r} differs from its digest. Get the bundle again.")
    return Bundle(folder=folder, manifest=manifest)


def check_place(folder: Path, *, force: bool) -> None:
    """Raises `ConfigError` where `write` would refuse to put a bundle at `folder`."""
    if not folder.exists():
        return
    if not folder.is_dir() or (any(folder.iterdir()) and not (folder / MANIFEST).exists()):
        raise ConfigError(
            f"{folder.name!r} exists, is not empty and is no bundle. Choose another --out."
        )
    if (folder / MANIFEST).exists() and not force:
        raise ConfigError(f"The bundle {folder.name!r} exists. Choose another --out.")


def _replace(folder: Path, work: Path) -> None:
    """Put `work` at `folder`; what was there is deleted only once the new one stands."""
    if not folder.exists():
        work.rename(folder)
        return
    aside = work.with_name(f"{work.name}-old")
    folder.rename(aside)
    try:
        work.rename(folder)
    except BaseException:
        aside.rename(folder)
        raise
    shutil.rmtree(aside)


def _files(folder: Path) -> set[str]:
    """Every file below `folder`. Raises `BundleError` for links, which could lead outside it."""
    found = set()
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise BundleError(f"The bundle holds {name!r}, which is no plain file or folder.")
        if path.is_file():
            found.add(name)
    return found


def _check_manifest(manifest: Any, where: str) -> None:
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        raise BundleError(f"Expected a bundle of schema {SCHEMA} in {where!r}.")
    if not isinstance(manifest.get("digests"), dict):
        raise BundleError(f"The manifest of {where!r} names no digests.")
    for key in ("name", "version", "channel"):
        if not isinstance(manifest.get(key), str):
            raise BundleError(f"The manifest of {where!r} names no {key}.")
    try:
        for entry in manifest["guarantees"]:
            Guarantee.from_json(entry)
    except (ConfigError, KeyError, TypeError) as error:
        raise BundleError(f"The manifest of {where!r} has no readable guarantees.") from error


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
