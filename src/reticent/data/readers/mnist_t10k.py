"""MNIST's test part: 10,000 handwritten digits (LeCun et al. 1998)."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np

from reticent.data.digest import check_rows, read_verified
from reticent.data.handwriting import digit_task
from reticent.data.task import Task

IMAGES_SHA256 = "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"
LABELS_SHA256 = "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"
ROWS = 10_000


def mnist_t10k(folder: Path, *, public: str = "parity") -> Task:
    """Digits (10000, 1, 28, 28) in 0..1. Public: parity, or the digit; private as `mnist5k`."""
    images = gzip.decompress(read_verified(folder / "t10k-images-idx3-ubyte.gz", IMAGES_SHA256))
    labels = gzip.decompress(read_verified(folder / "t10k-labels-idx1-ubyte.gz", LABELS_SHA256))
    # IDX: a header of 16 and 8 bytes, then one byte a pixel or label.
    pixels = np.frombuffer(images, dtype=np.uint8, offset=16).reshape(-1, 28, 28)
    check_rows(len(pixels), ROWS, "t10k-images-idx3-ubyte.gz")
    return digit_task(
        pixels.astype(np.float32) / 255.0,
        np.frombuffer(labels, dtype=np.uint8, offset=8).astype(np.int64),
        public=public,
        name="mnist_t10k",
        source="MNIST test part (LeCun et al. 1998)",
    )
