"""What many views of a record bring: small convolutional networks by DP-SGD.

Arms with one budget: no augmentation, one random view of each record, several whose mean gradient
is clipped. Digits are shifted (MNIST-5k, epsilon 3), photographs mirrored (9,000 CIFAR-10 images,
re-encoded as JPEG, epsilon 8). Each arm's learning rate is the best of one grid on validation
records of the first split's training part; test records choose nothing. Secure noise, PLD, delta
1e-5, per record; the choice of the rate isn't in epsilon. RETICENT_DATA names the folder of the
photographs, which are left out without it.
"""

from __future__ import annotations

import io
import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from networks import cnn
from PIL import Image
from rows import Row, row
from torch import Tensor, nn

from reticent.data import load
from reticent.training.dp_sgd.clipping import Flat
from reticent.training.dp_sgd.trainer import Plan, default_losses, train_dp

DELTA = 1e-5


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One set: how much is trained on, for what budget, how, and how images are changed."""

    name: str
    x: Tensor
    y: Tensor
    train: int
    network: Callable[[], nn.Module]
    epsilon: float
    steps: int
    batch: int
    augment: str
    views: int
    rates: tuple[float, ...]
    splits: int


def rows(*, quick: bool = False) -> Iterator[Row]:
    """Accuracy of each arm, mean of the splits, beside no augmentation."""
    made = [_digits()] + ([_photographs()] if os.environ.get("RETICENT_DATA") else [])
    for setting in made[:1] if quick else made:
        yield from compared(setting, quick=quick)


def compared(setting: Setting, *, quick: bool = False) -> Iterator[Row]:
    """The arms on one set."""
    steps, splits = (30, 1) if quick else (setting.steps, setting.splits)
    base: float | None = None
    for views in (0, 1, setting.views):
        options = {"augment": setting.augment, "multiplicity": views} if views else {}
        rates = setting.rates[-1:] if quick else setting.rates
        rate = _chosen(setting, steps, rates, options)
        found = []
        for split in range(splits):
            train, test = _split(setting, split)
            found.append(_accuracy(setting, train, test, steps, rate, options))
        case = f"views/{setting.name}/epsilon {setting.epsilon:g}/{views} views, rate {rate:g}"
        said: dict[str, Any] = {"unit": "share", "n": splits * len(test), "higher": True}
        mean = float(np.mean(found))
        yield row(case, "accuracy, mean of splits", mean, base, "no augmentation", **said)
        base = mean if base is None else base


def _chosen(
    setting: Setting, steps: int, rates: tuple[float, ...], options: dict[str, Any]
) -> float:
    if len(rates) == 1:
        return rates[0]
    train = _split(setting, 0)[0]
    held, fit = train.tensor_split([setting.train // 5])
    scores = {rate: _accuracy(setting, fit, held, steps, rate, options) for rate in rates}
    return max(scores, key=lambda rate: scores[rate])


def _accuracy(
    setting: Setting,
    train: Tensor,
    test: Tensor,
    steps: int,
    rate: float,
    options: dict[str, Any],
) -> float:
    torch.manual_seed(0)
    made = train_dp(
        setting.network(),
        setting.x[train],
        setting.y[train],
        losses=default_losses,
        epsilon=setting.epsilon,
        delta=DELTA,
        plan=Plan(
            steps=steps,
            expected_batch=setting.batch,
            chunk=1024,
            learning_rate=rate,
            averaging=0.95,
        ),
        clipping=Flat(clip_norm=0.5),
        **options,
    )
    with torch.no_grad():
        answers = torch.cat([made.model(part).argmax(1) for part in setting.x[test].split(500)])
    return float((answers == setting.y[test]).float().mean())


def _split(setting: Setting, split: int) -> tuple[Tensor, Tensor]:
    order = torch.from_numpy(np.random.default_rng(split).permutation(len(setting.x)))
    return order[: setting.train], order[setting.train :]


def _digits() -> Setting:
    task = load("mnist5k", public="digit")
    return Setting(
        name="mnist5k",
        x=torch.from_numpy(task.x),
        y=torch.from_numpy(task.public).long(),
        train=4000,
        # Papernot et al. 2021, "Tempered sigmoid activations", with tanh.
        network=lambda: cnn(nn.Tanh),
        epsilon=3.0,
        steps=200,
        batch=512,
        augment="shift",
        views=8,
        rates=(0.125, 0.25, 0.5),
        splits=3,
    )


def _photographs() -> Setting:
    path = Path(os.environ["RETICENT_DATA"]) / "cifar10_subset" / "cifar10_jpeg_subset.npz"
    with np.load(path) as stored:
        jpeg, offsets, labels = stored["jpeg"], stored["offsets"], stored["label"]
    images = [
        np.asarray(Image.open(io.BytesIO(jpeg[start:stop].tobytes())))
        for start, stop in itertools.pairwise(offsets)
    ]
    x = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
    return Setting(
        name="cifar10 subset",
        x=x.contiguous(),
        y=torch.from_numpy(labels).long(),
        train=9000,
        network=lambda: nn.Sequential(
            nn.Conv2d(3, 32, 3, 2, padding=1),
            nn.Tanh(),
            nn.Conv2d(32, 64, 3, 2, padding=1),
            nn.Tanh(),
            nn.Conv2d(64, 64, 3, 2, padding=1),
            nn.Tanh(),
            nn.Flatten(),
            nn.Linear(1024, 10),
        ),
        epsilon=8.0,
        steps=100,
        batch=1024,
        augment="flip",
        views=4,
        rates=(0.25, 0.5),
        splits=1,
    )
