"""The server's view of a deployment, as the attacks are given it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from reticent.attacks.view import Observed, ServerView
from reticent.data.answers import Answers
from reticent.data.partition import Partition
from reticent.data.task import Records, Task
from reticent.inference.sealed.release import Sealed
from reticent.inference.split.halves import Halves, differentiable_encoder, redraw
from reticent.inference.split.release import Bare, Code
from reticent.models.cut import cut_at
from reticent.training.plain import forward

Array = NDArray[np.float32]


def protected_view(
    halves: Halves, task: Task, partition: Partition, *, name: str, seed: int = 0
) -> ServerView:
    """What the server sees of a hardened deployment: codes, or features and their noise."""
    release = halves.release
    if isinstance(release, Sealed):
        return _sealed_view(halves, release, task, partition, name=name)
    coded = isinstance(release, Code)

    def see(records: Records) -> tuple[Array, NDArray[np.int64]]:
        features = halves.features(records.x)
        label = halves.label(records.x, seed=seed)
        if isinstance(release, Code):
            return release.nearest(features).astype(np.float32)[:, None], label
        return features, label

    return _view(
        see,
        task,
        partition,
        name=name,
        classes=halves.answers.levels,
        encoder=None if coded or not _has_gradients(halves) else differentiable_encoder(halves),
        redraw=None if isinstance(release, Bare | Code) else redraw(release, seed=seed + 101),
        alphabet=release.alphabet if isinstance(release, Code) else None,
    )


def _sealed_view(
    halves: Halves, release: Sealed, task: Task, partition: Partition, *, name: str
) -> ServerView:
    """Ciphertexts under keys that the server lacks; it doesn't learn the answer either."""

    def see(records: Records) -> tuple[Array, NDArray[np.int64]]:
        seen = release.seen(halves.features(records.x))
        return seen, np.zeros(len(seen), dtype=np.int64)

    return _view(see, task, partition, name=name, classes=1, encoder=None)


def _has_gradients(halves: Halves) -> bool:
    """A served graph stands in for the encoder when a bundle is audited: it has no parameters."""
    return any(True for _ in halves.encoder.parameters())


def undefended_view(
    model: nn.Module, cut: str, answers: Answers, task: Task, partition: Partition
) -> ServerView:
    """What the server sees when the deployed model is cut at the same place and left as it is.

    The ceiling of the attacks on that cut: features keep their spatial shape.
    """
    encoder, head = cut_at(model, cut)

    def see(records: Records) -> tuple[Array, NDArray[np.int64]]:
        features = forward(encoder, torch.from_numpy(records.x))
        return features.numpy(), answers.index_outputs(forward(head, features).numpy())

    return _view(
        see,
        task,
        partition,
        name="undefended",
        classes=answers.levels,
        encoder=encoder.eval().requires_grad_(False),
    )


def _view(
    see: Callable[[Records], tuple[Array, NDArray[np.int64]]],
    task: Task,
    partition: Partition,
    *,
    name: str,
    classes: int,
    encoder: nn.Module | None,
    redraw: Callable[[torch.Tensor], torch.Tensor] | None = None,
    alphabet: int | None = None,
) -> ServerView:
    def observe(rows: NDArray[np.int64]) -> Observed:
        records = task.take(rows)
        features, predicted = see(records)
        return Observed(
            features=features,
            predicted=predicted,
            inputs=records.x,
            private=records.private,
            users=records.users,
        )

    return ServerView(
        name=name,
        attacker_train=observe(partition.attacker_train),
        attacker_validation=observe(partition.attacker_validation),
        test=observe(partition.test),
        classes=classes,
        encoder=encoder,
        redraw=redraw,
        alphabet=alphabet,
    )
