"""Attackers that are neural networks: they draw the channel's noise afresh at every batch."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from reticent.attacks.attribute.families import Scores
from reticent.attacks.attribute.material import Material, Sample

_BATCH = 192
_CONV_BUDGET = 6e11
"""Multiply-adds that one convolutional attacker may spend: about ten seconds of one core."""

_WHITE = 0.3
_TEMPERATURES = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0)

Present = Callable[[Tensor], Tensor]


def perceptron(material: Material, seed: int) -> Scores | None:
    """Two hidden layers on standardised and whitened features and label, early stopping.

    Whitened features show quiet directions, standardised ones keep the loud ones loud; whitened
    alone overfits wide inputs. Adaptive: it trains on clean features of its own records with
    fresh noise per batch.
    """
    torch.manual_seed(seed)
    train = material.train
    width = train.standardised.shape[1] + train.whitened.shape[1]
    labels = train.label.shape[1]
    net = nn.Sequential(
        nn.Linear(width + labels, 256),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Linear(256, 256),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Linear(256, material.count),
    )
    batches = -(-material.base // _BATCH)
    epochs = int(np.clip((2400 if material.redraw else 1200) // batches, 8, 80))

    def present(features: Tensor) -> Tensor:
        standardised, whitened = material.whitening.apply_tensor(features)
        return torch.cat([standardised, _WHITE * whitened], dim=1)

    return _train(_Joined(nn.Identity(), net), material, present, epochs=epochs, seed=seed)


def convolutional(material: Material, seed: int) -> Scores | None:
    """Two convolutions and pooling on feature maps (n, C, L) or (n, C, H, W), then the label."""
    shape = material.train.clean.shape[1:]
    if len(shape) not in (2, 3) or max(shape[1:]) < 3:
        return None
    torch.manual_seed(seed)
    axes = (0, *range(2, len(shape) + 1))
    seen = material.train.seen
    mean = torch.from_numpy(seen.mean(axis=axes, keepdims=True, dtype=np.float64)).float()
    spread = seen.std(axis=axes, keepdims=True, dtype=np.float64)
    scale = torch.from_numpy(np.where(spread > 0, spread, np.inf)).float()
    body, width, cost = _maps(shape)
    net = nn.Sequential(
        nn.Linear(width + material.train.label.shape[1], 128),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Linear(128, material.count),
    )
    # A training step costs about three forward passes.
    epochs = int(np.clip(_CONV_BUDGET / (3 * cost * material.base), 4, 30))
    return _train(
        _Joined(body, net),
        material,
        lambda maps: ((maps - mean) / scale).clamp(-12, 12),
        epochs=epochs,
        seed=seed,
    )


class _Joined(nn.Module):
    """`head` applied to the body's output beside the predicted label."""

    def __init__(self, body: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.body, self.head = body, head

    def forward(self, features: Tensor, label: Tensor) -> Tensor:
        joined = torch.cat([self.body(features).flatten(1), label], dim=1)
        result: Tensor = self.head(joined)
        return result


def _maps(shape: tuple[int, ...]) -> tuple[nn.Module, int, float]:
    """The convolutional body for maps of `shape`, its width, and multiply-adds per record."""
    flat = len(shape) == 2
    conv: Callable[..., nn.Module] = nn.Conv1d if flat else nn.Conv2d
    norm: Callable[..., nn.Module] = nn.BatchNorm1d if flat else nn.BatchNorm2d
    pool: Callable[..., nn.Module] = nn.AdaptiveAvgPool1d if flat else nn.AdaptiveAvgPool2d
    size, channels, cost = np.array(shape[1:]), shape[0], 0.0
    layers: list[nn.Module] = []
    kernel = 5 if flat else 3
    for wide in (32, 48):
        stride = 2 if size.max() >= 12 else 1
        size = -(-size // stride)
        cost += float(np.prod(size)) * channels * wide * kernel ** len(size)
        layers += [
            conv(channels, wide, kernel, stride=stride, padding=kernel // 2),
            norm(wide),
            nn.ReLU(),
        ]
        channels = wide
    cells = 4 if flat else 3
    layers.append(pool(cells))
    return nn.Sequential(*layers), channels * cells ** len(size), cost


def _train(
    model: nn.Module, material: Material, present: Present, *, epochs: int, seed: int
) -> Scores:
    """Fit by AdamW with a one-cycle rate; keep the epoch with the least validation loss."""
    base = material.base
    clean = torch.from_numpy(np.ascontiguousarray(material.train.clean))
    label = torch.from_numpy(material.train.label[:base])
    target = torch.from_numpy(material.train.target[:base])
    weights = torch.from_numpy(material.weights).float()
    judge = torch.from_numpy(material.validation.target)
    batches = -(-base // _BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=2e-3, total_steps=epochs * batches, pct_start=0.15
    )
    generator = torch.Generator().manual_seed(seed)
    best, kept, stale = np.inf, copy.deepcopy(model.state_dict()), 0
    ready = None if material.redraw is not None else present(clean)
    for _ in range(epochs):
        model.train()
        # Equal batches: a last batch of one record would break batch normalisation.
        for rows in torch.randperm(base, generator=generator).tensor_split(batches):
            if ready is not None:
                features = ready[rows]
            else:
                assert material.redraw is not None
                with torch.no_grad():
                    features = present(material.redraw(clean[rows]))
            loss = functional.cross_entropy(
                model(features, label[rows]), target[rows], weight=weights
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        scores = _score(model, material.validation, present)
        held = _tempered_loss(torch.from_numpy(scores), judge, weights.double())
        if held < best - 1e-4:
            best, kept, stale = held, copy.deepcopy(model.state_dict()), 0
        else:
            stale += 1
        if stale > max(8, epochs // 3):
            break
    model.load_state_dict(kept)
    return Scores(
        validation=_score(model, material.validation, present),
        test=_score(model, material.test, present),
    )


def _tempered_loss(scores: Tensor, target: Tensor, weights: Tensor) -> float:
    """Weighted log-loss at the best of six temperatures.

    Epochs must be judged as the attack will use them, after calibration: plain log-loss turns
    against a network that grows overconfident while its ranking still improves, and stopping
    there cost up to half of the accuracy on motion data.
    """
    losses = [
        float(functional.cross_entropy(scores / temperature, target, weight=weights))
        for temperature in _TEMPERATURES
    ]
    return min(losses)


@torch.no_grad()
def _score(model: nn.Module, sample: Sample, present: Present) -> NDArray[np.float64]:
    model.eval()
    seen = torch.from_numpy(np.ascontiguousarray(sample.seen))
    label = torch.from_numpy(sample.label)
    rows = torch.arange(len(sample)).split(1024)
    scores = [functional.log_softmax(model(present(seen[r]), label[r]), dim=1) for r in rows]
    return np.asarray(torch.cat(scores).double().numpy())
