"""Bundles as served models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from reticent.errors import ConfigError, UnsupportedError
from reticent.inference.bundle import Bundle
from reticent.inference.deployed import is_sealed
from reticent.inference.sealed.server import SealedServer
from reticent.inference.split.server import CodeServer, FeatureServer, load_server
from reticent.service.model import ServedModel

_SERVED = ("plain", "split", "sealed", "ckks")


def served(
    bundles: Iterable[Bundle], *, spool: Path | None = None, processes: int | None = None
) -> Mapping[str, ServedModel]:
    """The models of these bundles by name. Only each bundle's server half is loaded.

    `spool` is a folder for clients' evaluation keys (None: a temporary one), `processes` how many
    compute on ciphertexts (None: one per core).

    Raises `BundleError` for halves that can't be loaded, `ConfigError` for two of one name.
    """
    models: dict[str, ServedModel] = {}
    for bundle in bundles:
        if bundle.channel not in _SERVED:
            raise UnsupportedError(
                f"Not yet: bundle {bundle.name!r} is for channel={bundle.channel!r}; this version "
                f"serves {', '.join(_SERVED)}."
            )
        if bundle.name in models:
            raise ConfigError(f"Two bundles are named {bundle.name!r}. Serve one of them.")
        half: SealedServer | CodeServer | FeatureServer
        if is_sealed(bundle.server):
            own = None if spool is None else spool / bundle.name
            half = SealedServer(bundle.server, spool=own, processes=processes)
        else:
            half = load_server(bundle.server)
        models[bundle.name] = ServedModel(
            name=bundle.name,
            version=bundle.version,
            half=half,
            channel=bundle.channel,
            client_files=bundle.client,
            guarantees=bundle.guarantees,
            cheap=half.cheap,
        )
    return models
