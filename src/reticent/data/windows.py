"""Windows: cutting a series into overlapping windows that never leave their chunk."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def chunks_from_end(length: int, chunk: int, window: int) -> list[tuple[int, int]]:
    """Half-open spans of `chunk` rows in time order that end with the series.

    Counted from the end, because that is where a machine fails; what is left over at the
    beginning is a shorter chunk if a window fits, and is dropped otherwise.
    """
    spans = [(max(stop - chunk, 0), stop) for stop in range(length, 0, -chunk)]
    return [span for span in reversed(spans) if span[1] - span[0] >= window]


def chunked_windows(
    series: NDArray[Any], chunks: list[tuple[int, int]], window: int, hop: int
) -> tuple[NDArray[Any], NDArray[np.int64], NDArray[np.int64]]:
    """Windows of `series` (time, channels), in time order.

    Returns windows (n, channels, window), the number of rows up to each window's end (n,), and the
    index of its chunk (n,). Two windows of different chunks share no row. Each chunk's last window
    ends with the chunk.
    """
    ends = [
        (stop - back, index)
        for index, (start, stop) in enumerate(chunks)
        for back in reversed(range(0, stop - start - window + 1, hop))
    ]
    if not ends:
        empty = np.empty(0, dtype=np.int64)
        return np.empty((0, series.shape[1], window), dtype=series.dtype), empty, empty
    stops, owner = (np.array(column, dtype=np.int64) for column in zip(*ends, strict=True))
    rows = stops[:, None] - window + np.arange(window)
    return series[rows].transpose(0, 2, 1), stops, owner
