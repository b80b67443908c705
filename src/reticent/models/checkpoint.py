"""A network on disk: safetensors weights and a card that says how to rebuild it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from reticent.errors import BundleError, ConfigError, MissingExtraError, UnsupportedError
from reticent.guarantee import Guarantee
from reticent.models.networks import NETWORKS, build

GUARANTEES_FILE, CERTIFICATE_FILE = "guarantees.json", "certificate.json"


@dataclass(frozen=True, kw_only=True)
class Card:
    """How to rebuild a network: its name, the record shape, its outputs, its options."""

    network: str
    shape: tuple[int, ...]
    outputs: int
    options: Mapping[str, Any] = field(default_factory=dict)


def save(folder: Path, model: nn.Module, card: Card) -> None:
    """Write `model.safetensors` and `card.json` into `folder`."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.contiguous().clone() for name, value in model.state_dict().items()}
    save_file(tensors, str(folder / "model.safetensors"))
    (folder / "card.json").write_text(json.dumps(asdict(card), indent=2) + "\n")


def save_guarantees(
    folder: Path, guarantees: Sequence[Guarantee], certificate: Mapping[str, Any] | None
) -> None:
    """Write what the training claims into `folder`, and the certificate where there is one."""
    record = [guarantee.to_json() for guarantee in guarantees]
    (folder / GUARANTEES_FILE).write_text(json.dumps(record, indent=2) + "\n")
    if certificate is not None:
        text = json.dumps(certificate, indent=2, allow_nan=False)
        (folder / CERTIFICATE_FILE).write_text(text + "\n")


def load_guarantees(folder: Path) -> tuple[Guarantee, ...]:
    """What `save_guarantees` wrote; nothing for a model that was trained without privacy.

    Raises `BundleError` where a certificate in the folder speaks of other weights or claims. Who
    signed it is for `reticent budget verify --certificate` to say, which knows the ledger's key.
    """
    path, told = folder / GUARANTEES_FILE, load_certificate(folder)
    if not path.exists():
        return ()
    try:
        record = json.loads(path.read_text())
        guarantees = tuple(Guarantee.from_json(entry) for entry in record)
        if told is not None:
            if told["claim"] not in record:
                raise ValueError(f"{CERTIFICATE_FILE} states another claim")
            if told["output_sha256"] != _digest(_stored(folder)):
                raise ValueError(f"{CERTIFICATE_FILE} speaks of other weights")
    except (OSError, ValueError, TypeError, KeyError, ConfigError) as error:
        raise BundleError(
            f"The claims of {folder.name!r} can't be relied on: {error}. Get the checkpoint again."
        ) from error
    return guarantees


def load_certificate(folder: Path) -> dict[str, Any] | None:
    """The certificate beside the weights, if there is one."""
    path = folder / CERTIFICATE_FILE
    if not path.exists():
        return None
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise BundleError(f"{path.name!r} in {folder.name!r} can't be read: {error}") from error


def weights_digest(model: nn.Module) -> str:
    """SHA-256 over names, shapes and bytes of all weights, in hexadecimal."""
    return _digest(model.state_dict())


def _digest(weights: Mapping[str, Tensor]) -> str:
    made = hashlib.sha256()
    for name, value in sorted(weights.items()):
        made.update(f"{name} {tuple(value.shape)} {value.dtype}\n".encode())
        made.update(value.detach().cpu().contiguous().numpy().tobytes())
    return made.hexdigest()


def load(folder: Path) -> tuple[nn.Module, Card]:
    """The network, in evaluation mode, and its card. Raises `BundleError` when they don't fit.

    Only reference networks are rebuilt: a card that names a factory would choose which code runs.
    For such a checkpoint call `build` and `load_weights` yourself. Raises `UnsupportedError`.
    """
    try:
        record = json.loads((folder / "card.json").read_text())
        card = Card(**{**record, "shape": tuple(record["shape"])})
        if card.network not in NETWORKS:
            raise UnsupportedError(
                f"Expected a reference network among {sorted(NETWORKS)}, got "
                f"network={card.network!r}. Build it yourself, then load_weights(folder, model)."
            )
        if ":" in card.network:
            # Importing what a file names would let the file run code.
            raise ValueError(f"network {card.network!r} is no reference network")
        model = build(card.network, shape=card.shape, outputs=card.outputs, options=card.options)
    except (OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
        raise BundleError(f"The checkpoint in {folder.name!r} can't be loaded: {error}") from error
    load_weights(folder, model)
    return model.eval(), card


def load_weights(folder: Path, model: nn.Module) -> None:
    """Put the checkpoint's weights into `model`. Raises `BundleError` when they don't fit."""
    weights = _stored(folder)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise BundleError(f"The weights in {folder.name!r} can't be loaded: {error}") from error


def _stored(folder: Path) -> dict[str, Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise MissingExtraError("safetensors", "torch") from error

    try:
        return dict(load_file(str(folder / "model.safetensors")))
    except (OSError, SafetensorError) as error:
        raise BundleError(f"The weights in {folder.name!r} can't be loaded: {error}") from error
