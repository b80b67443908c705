"""Windows: they stay in their chunk, and chunks share no row."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from reticent.data.windows import chunked_windows, chunks_from_end


@given(st.integers(0, 200), st.integers(1, 60), st.integers(1, 40))
def test_chunks_are_disjoint_in_order_and_end_with_the_series(
    length: int, chunk: int, window: int
) -> None:
    spans = chunks_from_end(length, chunk, window)
    rows = [row for start, stop in spans for row in range(start, stop)]
    assert rows == sorted(set(rows))
    assert all(window <= stop - start <= chunk for start, stop in spans)
    assert all(0 <= start < stop <= length for start, stop in spans)
    if window <= chunk <= length:
        assert spans[-1] == (length - chunk, length)
        dropped = length - len(rows)
        assert dropped < window
        assert rows == list(range(dropped, length))


@given(st.integers(1, 150), st.integers(5, 50), st.integers(1, 20), st.integers(1, 9))
def test_windows_are_the_rows_before_their_end_and_stay_in_their_chunk(
    length: int, chunk: int, window: int, hop: int
) -> None:
    series = np.stack([np.arange(length), -np.arange(length)], axis=1)
    chunks = chunks_from_end(length, chunk, window)
    cut, stops, owner = chunked_windows(series, chunks, window, hop)
    assert cut.shape == (len(stops), 2, window)
    assert (np.diff(stops) > 0).all()
    for one, stop, index in zip(cut, stops, owner, strict=True):
        assert one[0].tolist() == list(range(stop - window, stop))
        assert (one[1] == -one[0]).all()
        start, end = chunks[index]
        assert start <= stop - window
        assert stop <= end
    for index, (start, end) in enumerate(chunks):
        own = stops[owner == index]
        assert own[-1] == end
        assert len(own) == (end - start - window) // hop + 1
        assert (np.diff(own) == hop).all()


def test_a_series_shorter_than_a_window_gives_none() -> None:
    cut, stops, owner = chunked_windows(np.zeros((4, 3)), chunks_from_end(4, 10, 5), 5, 1)
    assert cut.shape == (0, 3, 5)
    assert len(stops) == len(owner) == 0
