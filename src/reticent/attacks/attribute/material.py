"""The attacker's material: its labelled records and the records it is asked about."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from reticent.attacks.view import Observed, Redraw, ServerView
from reticent.attacks.whitening import KEEP_ALL, Whitening
from reticent.errors import DataError

_DRAWS = 3


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Records as attackers are fed them.

    `seen` (n, ...) is what the server received (noise drawn once per row); `clean` the encoder's
    output without noise, which an attacker has for its own records only; `label` (n, C) the
    predicted public label, one-hot; `target` (n,) the attribute as a class index, empty where
    the truth is closed.
    """

    seen: NDArray[np.float32]
    clean: NDArray[np.float32]
    standardised: NDArray[np.float32]
    whitened: NDArray[np.float32]
    predicted: NDArray[np.int64]
    label: NDArray[np.float32]
    target: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.predicted)


@dataclass(frozen=True, kw_only=True)
class Material:
    """All that one attack on one attribute learns from: never the truth of the test part.

    `train` holds several noise draws of each record when `redraw` is set; `base` its records
    once. `classes` (k,) are the attribute's values, `target` indexes them.
    """

    train: Sample
    validation: Sample
    test: Sample
    classes: NDArray[np.int64]
    whitening: Whitening
    redraw: Redraw | None
    alphabet: int | None
    base: int

    @property
    def count(self) -> int:
        """How many values the attribute has."""
        return len(self.classes)

    @property
    def weights(self) -> NDArray[np.float64]:
        """One weight per attribute value that makes each count the same in training."""
        share = np.bincount(self.train.target, minlength=self.count) / len(self.train)
        return np.asarray(1.0 / (self.count * np.maximum(share, 1e-12)))


def gather(view: ServerView, attribute: str, *, seed: int) -> Material:
    """The attacker's material for `attribute`, whitening fitted on its own noisy records.

    Rows of the validation part whose value the training part lacks are left out. Raises
    `DataError` when the attribute is unknown or has one value only.
    """
    train, validation = view.attacker_train, view.attacker_validation
    if attribute not in train.private:
        raise DataError(
            f"Expected a private attribute among {sorted(train.private)}, "
            f"got attribute={attribute!r}."
        )
    classes = np.unique(train.private[attribute])
    if len(classes) < 2:
        raise DataError(
            f"Expected two or more values of {attribute!r} in the attacker's training part, got "
            f"{len(classes)}. Give more attacker records."
        )
    known = np.isin(validation.private[attribute], classes)
    if not known.any():
        raise DataError(
            f"No record of the attacker's validation part has a value of {attribute!r} that its "
            "training part holds. Deal the attacker's records at random."
        )
    draws = _DRAWS if view.redraw is not None else 1
    width = int(np.prod(train.features.shape[1:], dtype=np.int64))
    draws = min(draws, 2) if width > KEEP_ALL else draws
    seen = np.concatenate([draw(view.redraw, train.features) for _ in range(draws)])
    whitening = Whitening.fit(seen, seed=seed)

    def sample(
        part: Observed, seen: NDArray[np.float32], rows: NDArray[np.bool_], opened: bool
    ) -> Sample:
        times = len(seen) // max(int(rows.sum()), 1)
        target = np.empty(0, dtype=np.int64)
        if opened:
            target = np.tile(np.searchsorted(classes, part.private[attribute][rows]), times)
        predicted = np.tile(part.predicted[rows], times)
        return Sample(
            seen=seen,
            clean=part.features[rows],
            standardised=whitening.standardise(seen).astype(np.float32),
            whitened=whitening.apply(seen).astype(np.float32),
            predicted=predicted,
            label=np.eye(view.classes, dtype=np.float32)[predicted],
            target=target,
        )

    everything = np.ones(len(train), dtype=np.bool_)
    return Material(
        train=sample(train, seen, everything, True),
        validation=sample(validation, draw(view.redraw, validation.features[known]), known, True),
        test=sample(
            view.test,
            draw(view.redraw, view.test.features),
            np.ones(len(view.test), dtype=np.bool_),
            False,
        ),
        classes=classes,
        whitening=whitening,
        redraw=view.redraw,
        alphabet=view.alphabet,
        base=len(train),
    )


def draw(redraw: Redraw | None, features: NDArray[np.float32]) -> NDArray[np.float32]:
    """`features` with the channel's noise drawn once (unchanged where the channel has none)."""
    if redraw is None:
        return features
    with torch.no_grad():
        noisy = redraw(torch.from_numpy(np.ascontiguousarray(features)))
    return np.asarray(noisy.numpy(), dtype=np.float32)
