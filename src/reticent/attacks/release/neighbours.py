"""Nearest neighbours by brute force, exactly, with ties broken at random."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_CELLS = 8_000_000
_BLOCK = 64
_SPARE = 15
_SAME = 1e-9


def nearest(
    queries: NDArray[np.float32],
    points: NDArray[np.float32],
    count: int,
    rng: np.random.Generator,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The `count` nearest `points` (r, d) of each query (q, d), and their squared distances.

    Both results are (q, count), nearest first (fewer columns where there are fewer points). Where
    points are equally near, each is as likely as the others: a fixed order would let two searches
    agree by their order instead of by the data.
    """
    count = min(count, len(points))
    order = rng.permutation(len(points))
    known = points[order]
    norms = np.einsum("ij,ij->i", known, known)
    doubled = np.ascontiguousarray(-2 * known.T)
    blocks = -(-len(known) // _BLOCK)
    kept = min(count + _SPARE, len(known))
    rows: list[NDArray[np.int64]] = []
    gaps: list[NDArray[np.float64]] = []
    step = max(1, _CELLS // (blocks * _BLOCK))
    for start in range(0, len(queries), step):
        asked = queries[start : start + step]
        near = np.full((len(asked), blocks * _BLOCK), np.inf, dtype=np.float32)
        # The query's own norm is the same for all points: it changes no order.
        np.matmul(asked, doubled, out=near[:, : len(known)])
        near[:, : len(known)] += norms
        found = _least(near, kept)
        # Single precision chose the short list; double precision orders it.
        apart = known[found].astype(np.float64) - asked[:, None].astype(np.float64)
        exact = np.einsum("qkd,qkd->qk", apart, apart)
        ranked = np.lexsort((rng.random(exact.shape), np.round(exact / _SAME)), axis=1)[:, :count]
        rows.append(order[np.take_along_axis(found, ranked, axis=1)])
        gaps.append(np.take_along_axis(exact, ranked, axis=1))
    return np.concatenate(rows), np.concatenate(gaps)


def _least(values: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Columns (q, count) of the least values of each row, in no order.

    The least values lie in the blocks with the least minima, and those are few.
    """
    rows, width = values.shape
    blocks = width // _BLOCK
    split = values.reshape(rows, blocks, _BLOCK)
    kept = min(count, blocks)
    chosen = np.argpartition(split.min(axis=2), kept - 1, axis=1)[:, :kept]
    inside = np.take_along_axis(split, chosen[:, :, None], axis=1).reshape(rows, -1)
    best = np.argpartition(inside, count - 1, axis=1)[:, :count]
    return np.take_along_axis(chosen, best // _BLOCK, axis=1) * _BLOCK + best % _BLOCK
