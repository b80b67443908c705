"""A checkpoint restores a network exactly, and nothing else than a network."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from reticent.errors import BundleError, UnsupportedError
from reticent.guarantee import SERVER, DifferentialPrivacy, Guarantee, Pillar
from reticent.models.checkpoint import (
    Card,
    load,
    load_guarantees,
    load_weights,
    save,
    save_guarantees,
    weights_digest,
)
from reticent.models.networks import build

torch.set_num_threads(1)


def saved(folder: Path) -> tuple[torch.nn.Module, Card]:
    torch.manual_seed(0)
    x = np.random.default_rng(0).normal(3.0, 2.0, size=(20, 2, 16)).astype(np.float32)
    options = {"widths": [4, 4], "hidden": [8]}
    model = build("convnet1d", shape=(2, 16), outputs=3, x=x, options=options).eval()
    card = Card(network="convnet1d", shape=(2, 16), outputs=3, options=options)
    save(folder, model, card)
    return model, card


def test_the_restored_network_is_the_same_function(tmp_path: Path) -> None:
    model, card = saved(tmp_path)
    restored, again = load(tmp_path)
    x = torch.randn(5, 2, 16)
    assert torch.equal(restored(x), model(x))
    assert again == card
    assert not restored.training


def test_standardisation_travels_with_the_weights(tmp_path: Path) -> None:
    saved(tmp_path)
    restored, _ = load(tmp_path)
    mean = dict(restored.named_buffers())["input.mean"]
    assert float(mean.mean()) == pytest.approx(3.0, abs=0.5)


def test_claims_hold_for_the_weights_and_certificate_they_lie_beside(tmp_path: Path) -> None:
    model, card = saved(tmp_path)
    strength = DifferentialPrivacy(
        epsilon=2.0, delta=1e-5, neighboring_relation="add or remove one", unit="record"
    )
    claim = Guarantee(
        id="dp-sgd",
        pillar=Pillar.TRAINING_DATA,
        adversary=SERVER,
        strength=strength,
        mechanism="DP-SGD",
        assumptions=(),
        source="none",
    )
    certificate = {"claim": claim.to_json(), "output_sha256": weights_digest(model)}
    save_guarantees(tmp_path, [claim], certificate)
    assert load_guarantees(tmp_path) == (claim,)
    stated = (tmp_path / "guarantees.json").read_text()
    (tmp_path / "guarantees.json").write_text(stated.replace("2.0", "1.0"))
    with pytest.raises(BundleError, match="another claim"):
        load_guarantees(tmp_path)
    (tmp_path / "guarantees.json").write_text(stated)
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1e-6
    save(tmp_path, model, card)
    with pytest.raises(BundleError, match="other weights"):
        load_guarantees(tmp_path)


def test_tied_weights_can_be_saved(tmp_path: Path) -> None:
    layer = torch.nn.Linear(3, 3)
    save(tmp_path, torch.nn.Sequential(layer, layer), Card(network="mlp", shape=(3,), outputs=3))
    fresh = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
    load_weights(tmp_path, fresh)
    assert torch.equal(fresh[0].weight, layer.weight)
    assert torch.equal(fresh[1].weight, layer.weight)


@pytest.mark.parametrize("name", ["card.json", "model.safetensors"])
@pytest.mark.parametrize("damage", ["gone", "empty", "cut", "noise"])
def test_damaged_files_are_refused(tmp_path: Path, name: str, damage: str) -> None:
    saved(tmp_path)
    path = tmp_path / name
    whole = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        damaged = {"empty": b"", "cut": whole[: len(whole) // 2], "noise": b"\xff" * 99}
        path.write_bytes(damaged[damage])
    with pytest.raises(BundleError):
        load(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"outputs": 4},
        {"shape": [2, 32]},
        {"shape": 5},
        {"options": {"widths": [4, 8], "hidden": [8]}},
        {"options": {"depth": 3}},
        {"extra": 1},
        {"network": "mlp"},
    ],
)
def test_a_card_that_does_not_fit_its_weights_is_refused(
    tmp_path: Path, change: dict[str, object]
) -> None:
    saved(tmp_path)
    card = json.loads((tmp_path / "card.json").read_text())
    (tmp_path / "card.json").write_text(json.dumps(card | change))
    with pytest.raises(BundleError):
        load(tmp_path)


def test_a_card_cannot_choose_which_code_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Importing the module that a card names would already run its first lines."""
    saved(tmp_path)
    trap = tmp_path / "trap_of_the_card.py"
    trap.write_text(f"open({str(tmp_path / 'sprung')!r}, 'w').close()\ndef make(**_): ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    card = json.loads((tmp_path / "card.json").read_text())
    (tmp_path / "card.json").write_text(json.dumps(card | {"network": "trap_of_the_card:make"}))
    with pytest.raises(UnsupportedError, match="reference network"):
        load(tmp_path)
    assert not (tmp_path / "sprung").exists()


def test_a_factory_made_network_gets_its_weights_back_by_hand(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 2))
    save(tmp_path, model, Card(network="somewhere:make", shape=(3,), outputs=2))
    fresh = torch.nn.Sequential(torch.nn.Linear(3, 2))
    load_weights(tmp_path, fresh)
    assert torch.equal(fresh[0].weight, model[0].weight)
    with pytest.raises(BundleError):
        load_weights(tmp_path, torch.nn.Linear(3, 2))
