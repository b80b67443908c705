"""Decoders from features to inputs, trained on the attacker's own records.

Each predicts what the mean input of the predicted label leaves unexplained, so a decoder that
learns nothing is the floor itself.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import eigh
from torch import Tensor, nn
from torch.nn import functional

from reticent.attacks.attribute.material import draw
from reticent.attacks.view import Observed, Redraw, ServerView
from reticent.attacks.whitening import Whitening

_BATCH = 128
_BUDGET = 6e11
"""Multiply-adds that training one decoder may spend: about ten seconds of one core."""

Images = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Guess:
    """Reconstructed inputs of the validation and of the test records, (n, ...) each."""

    validation: Images
    test: Images


@dataclass(frozen=True, kw_only=True)
class Puzzle:
    """What all decoders share: features as seen, inputs of the attacker's own records, the floor.

    `seen` holds one noise draw per record of train, validation and test; `means` (C, ...) the
    mean training input per predicted label.
    """

    view: ServerView
    seen: tuple[Images, Images, Images]
    means: Images

    @classmethod
    def of(cls, view: ServerView) -> Puzzle:
        """The puzzle of a view; every part's noise is drawn once."""
        parts = (view.attacker_train, view.attacker_validation, view.test)
        train = view.attacker_train
        overall = train.inputs.mean(axis=0)
        means = np.stack(
            [
                train.inputs[train.predicted == label].mean(axis=0)
                if (train.predicted == label).any()
                else overall
                for label in range(view.classes)
            ]
        )
        seen = tuple(draw(view.redraw, part.features) for part in parts)
        return cls(view=view, seen=(seen[0], seen[1], seen[2]), means=means.astype(np.float32))

    def floor(self, part: Observed) -> Images:
        """The mean input of each record's predicted label."""
        return self.means[part.predicted]

    @property
    def residuals(self) -> Images:
        """Training inputs minus their floor."""
        train = self.view.attacker_train
        return train.inputs - self.floor(train)

    def guess(self, validation: NDArray[np.floating], test: NDArray[np.floating]) -> Guess:
        """Floors plus predicted residuals (n, anything), within the range met in training."""
        view = self.view
        lowest, highest = (edge(view.attacker_train.inputs, axis=0) for edge in (np.min, np.max))
        sides = ((view.attacker_validation, validation), (view.test, test))
        found = [
            np.clip(self.floor(part) + added.reshape(len(part), *lowest.shape), lowest, highest)
            for part, added in sides
        ]
        held, asked = (guess.astype(np.float32) for guess in found)
        return Guess(validation=held, test=asked)


def mean_per_code(puzzle: Puzzle) -> Guess:
    """The mean training input of each code: no decoder has less squared error on a code.

    A pair of code and label never met in training keeps the label's mean, and so does one that
    holds all records of its label: a label-only code gives the floor exactly.
    """
    view = puzzle.view
    parts = (view.attacker_train, view.attacker_validation, view.test)
    flat = [part.features.reshape(len(part), -1) for part in parts]
    _names, codes = np.unique(np.concatenate(flat), axis=0, return_inverse=True)
    codes = codes.reshape(-1)
    predicted = np.concatenate([part.predicted for part in parts])
    _pairs, cells = np.unique(codes * view.classes + predicted, return_inverse=True)
    bounds = np.cumsum([len(part) for part in parts])
    train, validation, test = np.split(cells, bounds[:-1])
    labels, residuals = view.attacker_train.predicted, puzzle.residuals
    shift = np.zeros((int(cells.max()) + 1, *puzzle.means.shape[1:]), dtype=np.float32)
    for cell in np.unique(train):
        mine = train == cell
        if mine.sum() < (labels == labels[mine][0]).sum():
            shift[cell] = residuals[mine].mean(axis=0)
    return puzzle.guess(shift[validation], shift[test])


def ridge(puzzle: Puzzle) -> Guess:
    """Ridge regression from standardised features and label; the penalty by validation error."""
    view = puzzle.view
    draws = 1 if view.redraw is None else 3
    rows = [puzzle.seen[0]]
    rows += [draw(view.redraw, view.attacker_train.features) for _ in range(draws - 1)]
    seen = np.concatenate(rows)
    whitening = Whitening.fit(seen)
    eye = np.eye(view.classes)
    train = np.hstack(
        [whitening.standardise(seen), np.tile(eye[view.attacker_train.predicted], (draws, 1))]
    )
    held = np.hstack(
        [whitening.standardise(puzzle.seen[1]), eye[view.attacker_validation.predicted]]
    )
    asked = np.hstack([whitening.standardise(puzzle.seen[2]), eye[view.test.predicted]])
    goal = np.tile(puzzle.residuals.reshape(len(view.attacker_train), -1), (draws, 1))
    wide = train.shape[1] > len(train)
    gram = train @ train.T if wide else train.T @ train
    values, vectors = eigh(gram)
    values = np.maximum(values, 0.0)
    turned = vectors.T @ (goal if wide else train.T @ goal)
    basis = [(part @ train.T if wide else part) @ vectors for part in (held, asked)]
    truth = view.attacker_validation.inputs - puzzle.floor(view.attacker_validation)
    best: tuple[float, NDArray[np.float64]] = (np.inf, turned)
    for share in 10.0 ** np.arange(-7.0, 3.0):
        scaled = turned / (values + share * values.mean())[:, None]
        error = float(((basis[0] @ scaled - truth.reshape(len(truth), -1)) ** 2).mean())
        if error < best[0]:
            best = (error, scaled)
    return puzzle.guess(basis[0] @ best[1], basis[1] @ best[1])


def network(puzzle: Puzzle, *, seed: int) -> Guess:
    """A small upsampling network (convolutional for images and series), noise fresh per batch."""
    view = puzzle.view
    torch.manual_seed(seed)
    whitening = Whitening.fit(puzzle.seen[0], seed=seed)
    eye = torch.eye(view.classes)

    def present(features: Tensor, predicted: Tensor) -> Tensor:
        return torch.cat([whitening.apply_tensor(features)[1], eye[predicted]], dim=1)

    shape = tuple(puzzle.means.shape[1:])
    model, cost = _upsampler(whitening.rotation.shape[1] + view.classes, shape)
    goal = torch.from_numpy(puzzle.residuals)
    scale = float(goal.std()) or 1.0
    train = view.attacker_train
    clean = torch.from_numpy(np.ascontiguousarray(train.features))
    predicted = torch.from_numpy(train.predicted)
    batches = -(-len(train) // _BATCH)
    epochs = int(np.clip(_BUDGET / (3 * cost * len(train)), 4, 60))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=2e-3, total_steps=epochs * batches, pct_start=0.2
    )
    held = present(
        torch.from_numpy(puzzle.seen[1]), torch.from_numpy(view.attacker_validation.predicted)
    )
    truth = view.attacker_validation.inputs - puzzle.floor(view.attacker_validation)
    best, kept, stale = np.inf, copy.deepcopy(model.state_dict()), 0
    for _ in range(epochs):
        model.train()
        for rows in torch.randperm(len(train)).tensor_split(batches):
            features = _noisy(view.redraw, clean[rows])
            loss = functional.mse_loss(
                model(present(features, predicted[rows])), goal[rows] / scale
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        error = float(((_decode(model, held) * scale - truth) ** 2).mean())
        if error < best:
            best, kept, stale = error, copy.deepcopy(model.state_dict()), 0
        else:
            stale += 1
        if stale > max(6, epochs // 4):
            break
    model.load_state_dict(kept)
    asked = present(torch.from_numpy(puzzle.seen[2]), torch.from_numpy(view.test.predicted))
    return puzzle.guess(_decode(model, held) * scale, _decode(model, asked) * scale)


def _noisy(redraw: Redraw | None, features: Tensor) -> Tensor:
    if redraw is None:
        return features
    with torch.no_grad():
        return redraw(features)


@torch.no_grad()
def _decode(model: nn.Module, presented: Tensor) -> NDArray[np.float32]:
    model.eval()
    return np.asarray(torch.cat([model(rows) for rows in presented.split(512)]).numpy())


def _upsampler(width: int, shape: tuple[int, ...]) -> tuple[nn.Module, float]:
    """A decoder from (n, width) to (n, *shape), and its multiply-adds per record."""
    size = int(np.prod(shape))
    if len(shape) not in (2, 3) or min(shape[1:]) < 4:
        layers = nn.Sequential(
            nn.Linear(width, 256),
            nn.ReLU(),
            nn.Linear(256, 256),
            nn.ReLU(),
            nn.Linear(256, size),
            nn.Unflatten(1, shape),
        )
        return layers, 256.0 * (width + 256 + size)
    flat = len(shape) == 2
    conv: Callable[..., nn.Module] = nn.Conv1d if flat else nn.Conv2d
    mode = "linear" if flat else "bilinear"
    kernel = 5 if flat else 3
    small = tuple(max(2, -(-side // 4)) for side in shape[1:])
    half = tuple(max(2, -(-side // 2)) for side in shape[1:])
    deep = 32
    first = deep * int(np.prod(small))
    model = nn.Sequential(
        nn.Linear(width, 256),
        nn.ReLU(),
        nn.Linear(256, first),
        nn.ReLU(),
        nn.Unflatten(1, (deep, *small)),
        nn.Upsample(size=half, mode=mode, align_corners=False),
        conv(deep, 24, kernel, padding=kernel // 2),
        nn.ReLU(),
        nn.Upsample(size=shape[1:], mode=mode, align_corners=False),
        conv(24, 12, kernel, padding=kernel // 2),
        nn.ReLU(),
        conv(12, shape[0], kernel, padding=kernel // 2),
    )
    taps = kernel ** len(half)
    cost = 256.0 * (width + first) + float(np.prod(half)) * deep * 24 * taps
    cost += float(np.prod(shape[1:])) * 12 * taps * (24 + shape[0])
    return model, cost
