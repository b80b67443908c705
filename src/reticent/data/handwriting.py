"""Handwriting: images of digits as a task, with how they are written as private attributes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from reticent.data.labels import bands
from reticent.data.task import Task
from reticent.errors import ConfigError

DIGITS = tuple("0123456789")
PUBLICS = ("parity", "digit")


def digit_task(
    images: NDArray[np.float32], digits: NDArray[np.int64], *, public: str, name: str, source: str
) -> Task:
    """A task on `images` (n, height, width) in 0..1, shape (n, 1, height, width).

    `public="parity"`: even or odd; private: the digit itself, slant, ink.
    `public="digit"`: private: slant and ink. Terciles of slant and ink are taken over all images,
    so both correlate with the digit (a 1 needs little ink): their floor is above a third.
    """
    if public not in PUBLICS:
        raise ConfigError(f"Expected public in {PUBLICS}, got public={public!r}.")
    private = {"slant": bands(slant(images)), "ink": bands(images.sum(axis=(1, 2)))}
    attribute_names: dict[str, tuple[str, ...]] = {
        "slant": ("leans left", "upright", "leans right"),
        "ink": ("thin", "medium", "thick"),
    }
    if public == "parity":
        private = {"digit": digits, **private}
        attribute_names = {"digit": DIGITS, **attribute_names}
    return Task(
        name=name,
        x=images[:, None].astype(np.float32),
        public=digits % 2 if public == "parity" else digits,
        private=private,
        source=source,
        class_names=("even", "odd") if public == "parity" else DIGITS,
        attribute_names=attribute_names,
    )


def slant(images: NDArray[np.float32]) -> NDArray[np.float64]:
    """How far each image (n, height, width) leans to the right, in pixels across per pixel up.

    The shear -mu11 / mu02 of the ink's central moments (Hu 1962), rows counted downwards; 0 for
    an image whose ink lies in one row.
    """
    weights = images.astype(np.float64)
    weights = weights / np.maximum(weights.sum(axis=(1, 2), keepdims=True), 1e-12)
    rows = np.arange(images.shape[1], dtype=np.float64)[None, :, None]
    cols = np.arange(images.shape[2], dtype=np.float64)[None, None, :]
    down = rows - (weights * rows).sum(axis=(1, 2), keepdims=True)
    across = cols - (weights * cols).sum(axis=(1, 2), keepdims=True)
    covariance = (weights * down * across).sum(axis=(1, 2))
    variance = (weights * down**2).sum(axis=(1, 2))
    return np.asarray(-covariance / np.maximum(variance, 1e-12))
