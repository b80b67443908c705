"""The two halves in a bundle's folders, whatever its channel."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from reticent.errors import BundleError
from reticent.inference.sealed.client import SealedClient
from reticent.inference.sealed.files import PROGRAM_FILE
from reticent.inference.sealed.server import LocalSealedServer
from reticent.inference.split.client import SPEC_FILE, SplitClient
from reticent.inference.split.odometer import Odometer
from reticent.inference.split.server import CodeServer, FeatureServer, load_server


def client_half(
    folder: Path, *, odometer: Odometer | None = None, user: str = "default"
) -> SplitClient | SealedClient:
    """The client half in `folder`. Raises `BundleError` when a file is missing or malformed."""
    try:
        record: Any = json.loads((folder / SPEC_FILE).read_text())
        kind = record["release"]["kind"]
    except (OSError, ValueError, RecursionError, KeyError, TypeError) as error:
        raise BundleError(f"No readable {SPEC_FILE} in {folder.name!r}: {error!r}") from error
    loader = SealedClient if kind == "sealed" else SplitClient
    return loader.load(folder, odometer=odometer, user=user)


def is_sealed(folder: Path) -> bool:
    """Whether the server half in `folder` computes on ciphertexts."""
    return (folder / PROGRAM_FILE).exists()


def local_pair(
    folder: Path,
) -> tuple[SplitClient | SealedClient, CodeServer | FeatureServer | LocalSealedServer]:
    """Both halves of the bundle at `folder` in this process, ready for queries."""
    client = client_half(folder / "client")
    if isinstance(client, SealedClient):
        return client, LocalSealedServer(folder / "server", client.public_keys)
    return client, load_server(folder / "server")
