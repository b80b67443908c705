"""Few-shot decoding: a client that skips the server and labels its own features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reticent.errors import DataError
from reticent.random import seeded


@dataclass(frozen=True, kw_only=True)
class FewShotDecoding:
    """Decoded labels of `repeats` clients, each with its own `shots` labelled records per class.

    `decoded` (repeats, n) class indices; `asked` (repeats, n) is False on a client's own labelled
    records, which don't count.
    """

    shots: int
    classes: int
    decoded: NDArray[np.int64]
    asked: NDArray[np.bool_]


def decode_few_shot(
    features: NDArray[np.floating],
    labels: NDArray[np.int64],
    *,
    shots: int,
    repeats: int = 50,
    alphabet: int | None = None,
    seed: int = 0,
) -> FewShotDecoding:
    """The public label, decoded from the encoder's own output with `shots` labels per class.

    `features` (n, ...) is what the client's encoder gives (codes (n, 1) where `alphabet` is set),
    `labels` (n,) the truth, read only for the labelled records that each repeat draws.
    Real-valued features are standardised (a client has unlabelled features of its own) and
    decoded by the nearest class mean, or the nearest labelled record where that is the same.
    Codes are decoded by the majority of their labelled records; a code without any gets a class
    whose labelled records all have other codes first. Classes with `shots` records or fewer are
    left out. Raises `DataError` when fewer than two classes remain.
    """
    counts = np.bincount(labels)
    kept_classes = np.flatnonzero(counts > shots)
    if len(kept_classes) < 2:
        raise DataError(
            f"Expected two classes or more with over {shots} records, got {len(kept_classes)}. "
            "Give more records, or fewer shots."
        )
    flat = features.reshape(len(features), -1).astype(np.float64)
    spread = flat.std(axis=0)
    flat = (flat - flat.mean(axis=0)) / np.where(spread > 0, spread, np.inf)
    codes = np.unique(features.reshape(len(features), -1), axis=0, return_inverse=True)[1]
    codes = codes.reshape(-1)
    rng = seeded(seed, 79, shots)
    decoded = np.empty((repeats, len(labels)), dtype=np.int64)
    asked = np.tile(np.isin(labels, kept_classes), (repeats, 1))
    for repeat in range(repeats):
        support = np.concatenate(
            [
                rng.choice(np.flatnonzero(labels == label), shots, replace=False)
                for label in kept_classes
            ]
        )
        asked[repeat, support] = False
        known = labels[support]
        if alphabet is not None:
            decoded[repeat] = _by_code(codes, support, known, kept_classes)
        else:
            decoded[repeat] = _by_mean(flat, support, known, kept_classes)
    return FewShotDecoding(shots=shots, classes=len(kept_classes), decoded=decoded, asked=asked)


def _by_mean(
    flat: NDArray[np.float64],
    support: NDArray[np.int64],
    known: NDArray[np.int64],
    classes: NDArray[np.int64],
) -> NDArray[np.int64]:
    means = np.stack([flat[support[known == label]].mean(axis=0) for label in classes])
    # ||f - c||^2 without ||f||^2, which is the same for every class.
    distance = (means**2).sum(axis=1) - 2 * flat @ means.T
    return np.asarray(classes[distance.argmin(axis=1)])


def _by_code(
    codes: NDArray[np.int64],
    support: NDArray[np.int64],
    known: NDArray[np.int64],
    classes: NDArray[np.int64],
) -> NDArray[np.int64]:
    votes = np.zeros((int(codes.max()) + 1, len(classes)))
    np.add.at(votes, (codes[support], np.searchsorted(classes, known)), 1.0)
    label_of = votes.argmax(axis=1)
    unseen = np.flatnonzero(votes.sum(axis=1) == 0)
    if len(unseen):
        taken = np.unique(label_of[votes.sum(axis=1) > 0])
        free = np.setdiff1d(np.arange(len(classes)), taken)
        # The commonest unseen code first: one code each for classes that no code stands for yet.
        order = unseen[np.argsort(-np.bincount(codes, minlength=len(votes))[unseen])]
        spare = free if len(free) else np.arange(len(classes))
        label_of[order] = spare[np.arange(len(order)) % len(spare)]
    return np.asarray(classes[label_of[codes]])
