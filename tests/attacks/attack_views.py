"""SYNTHETIC server views, built with numpy alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from reticent.attacks.view import Observed, Redraw, ServerView

Write = Callable[[np.random.Generator, NDArray[np.int64], NDArray[np.int64]], NDArray[np.float32]]


def gaussian(width: int, *, leak: float = 0.0, classes: int = 4, values: int = 64) -> Write:
    """Features: a prototype per public label, `leak` times one per private value, unit noise."""
    fixed = np.random.default_rng(2024)
    prototypes = 2 * fixed.normal(size=(classes, width))
    marks = fixed.normal(size=(values, width))

    def write(
        rng: np.random.Generator, label: NDArray[np.int64], secret: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        features = prototypes[label] + leak * marks[secret] + rng.normal(size=(len(label), width))
        return features.astype(np.float32)

    return write


def view(
    write: Write,
    *,
    sizes: tuple[int, int, int] = (900, 300, 900),
    classes: int = 4,
    users: int = 16,
    secret: str = "binary",
    redraw: Redraw | None = None,
    alphabet: int | None = None,
    seed: int = 0,
) -> ServerView:
    """A view with known users; the secret is the user ("identity"), one bit of the user
    ("binary"), or drawn per record ("free")."""

    def part(index: int) -> Observed:
        rng = np.random.default_rng([seed, index])
        n = sizes[index]
        user = np.arange(n) % users
        label = rng.integers(classes, size=n)
        value = {
            "identity": user,
            "binary": user % 2,
            "free": rng.integers(2, size=n),
        }[secret]
        features = write(rng, label, value)
        return Observed(
            features=features,
            predicted=label,
            inputs=features.reshape(n, -1).copy(),
            private={"secret": value},
            users=user,
        )

    return ServerView(
        name="SYNTHETIC",
        attacker_train=part(0),
        attacker_validation=part(1),
        test=part(2),
        classes=classes,
        redraw=redraw,
        alphabet=alphabet,
    )
