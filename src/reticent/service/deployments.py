"""Bundles as served models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from reticent.errors import ConfigError, UnsupportedError
from reticent.inference.bundle import Bundle
from reticent.inference.split.server import load_server
from reticent.service.model import ServedModel


def served(bundles: Iterable[Bundle]) -> Mapping[str, ServedModel]:
    """The models of these bundles by name. Only each bundle's server half is loaded.

    Raises `BundleError` for halves that can't be loaded, `ConfigError` for two of one name.
    """
    models: dict[str, ServedModel] = {}
    for bundle in bundles:
        if bundle.channel != "split":
            raise UnsupportedError(
                f"Not yet: bundle {bundle.name!r} is for channel={bundle.channel!r}; this version "
                "serves split."
            )
        if bundle.name in models:
            raise ConfigError(f"Two bundles are named {bundle.name!r}. Serve one of them.")
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
