"""Large frozen backbones in the clear at the client, their heads alone on ciphertexts."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import reticent
from reticent.inference.ckks.client import EncryptedClient
from reticent.inference.ckks.server import EncryptedServer
from reticent.inference.deployed import local_pair
from reticent.inference.sealed.method import SealedHead
from reticent.inference.sealed.release import Sealed

CLASSES = 10


class Block(nn.Module):
    """Two convolutions beside a shortcut (He et al. 2016)."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(outside) for _ in range(2)])
        same = stride == 1 and inside == outside
        short = [nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside)]
        self.short = nn.Identity() if same else nn.Sequential(*short)

    def forward(self, x: Tensor) -> Tensor:
        inner = torch.relu(self.norms[0](self.first(x)))
        return torch.relu(self.norms[1](self.second(inner)) + self.short(x))


def resnet18() -> nn.Module:
    """3 x 64 x 64 to 512 features: the layers and the 11.2 million weights of ResNet-18."""
    stem = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    widths = [(64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2)]
    blocks = [Block(a, b, s) for i, o, st in widths for a, b, s in ((i, o, st), (o, o, 1))]
    return nn.Sequential(
        *stem, nn.MaxPool2d(3, 2, 1), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )


class Sentences(nn.Module):
    """16 tokens of 32 numbers to 128 features: two layers of attention, and a mean."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(32, 128)
        layer = nn.TransformerEncoderLayer(128, 4, 256, dropout=0.0, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(self.embed(x)).mean(dim=1)


BACKBONES = {"resnet18": (resnet18, (3, 64, 64), 512), "transformer": (Sentences, (16, 32), 128)}


@pytest.mark.slow
@pytest.mark.parametrize("name", BACKBONES)
def test_the_head_of_a_frozen_backbone_answers_on_ciphertexts(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    build, shape, features = BACKBONES[name]
    rng = np.random.default_rng(0)
    x = rng.normal(size=(240, *shape)).astype(np.float32)
    backbone = build()
    with torch.no_grad():
        backbone(torch.from_numpy(x[:64]))  # so that normalisation has statistics
    backbone.requires_grad_(False)
    if name == "resnet18":
        assert sum(weight.numel() for weight in backbone.parameters()) == 11_176_512
    model = nn.Sequential(OrderedDict(backbone=backbone, head=nn.Linear(features, CLASSES))).eval()
    halves = x.reshape(240, -1).mean(axis=1) > 0
    task = reticent.from_arrays(x, public=np.arange(240) % CLASSES, private={"half": halves})
    made = reticent.harden(model, task, method="sealed", cut="backbone", options={"goal": "upload"})
    test = made.stage.records("test").x[:8]
    with torch.no_grad():
        wanted = model(torch.from_numpy(test)).numpy()

    parts = made.hardened.halves
    assert isinstance(parts.release, Sealed)
    assert isinstance(parts.head, SealedHead)
    plan = parts.head.layout.plan
    assert plan.lowered.matrices[0].weight.shape == (CLASSES, features)
    assert plan.flood is not None
    client = EncryptedClient(parts.release.plan)
    server = EncryptedServer(plan, client.public_keys)
    sent = parts.release.clipped(parts.features(test))
    got = np.array([client.decrypt(server.answer(client.encrypt(row))) for row in sent])
    # Half a step for the certified error, half for rounding; the network is of float32.
    step = 2.0**-plan.estimate.places
    np.testing.assert_allclose(got, wanted, atol=step + 1e-5, rtol=0)

    folder = made.publish(tmp_path / name, name=name).folder
    served_client, served = local_pair(folder)
    answers = served_client.decode(served.answer(served_client.encode(test)))
    clear = np.ptp(np.sort(wanted, axis=1)[:, -2:], axis=1) > 2 * step
    assert (answers == wanted.argmax(axis=1))[clear].all()
    assert clear.sum() >= 4
