"""Poisson sampling draws each record by its own coin; what doesn't fit is cut at random."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from reticent.errors import ConfigError
from reticent.training.dp_sgd.keystream import KeyStream
from reticent.training.dp_sgd.sampling import (
    Draw,
    PoissonSampling,
    SeededWords,
    Words,
    bound_contributions,
    poisson_sampling,
)


@pytest.mark.parametrize("words", [KeyStream(), SeededWords(1)], ids=["secure", "seeded"])
def test_batch_sizes_are_binomial_and_records_independent(words: Words) -> None:
    """Tests at 10^-6; a rate off by a tenth, or a batch of fixed size, is rejected."""
    sampling = poisson_sampling(400, 40)
    batches = [sampling.draw(words).rows for _ in range(3000)]
    sizes = np.array([len(rows) for rows in batches])

    def fits(rate: float) -> bool:
        count = stats.binom(400 * 3000, rate)
        return bool(count.cdf(sizes.sum()) > 5e-7 and count.sf(sizes.sum()) > 5e-7)

    assert fits(sampling.probability)
    assert not fits(0.9 * sampling.probability)
    assert not fits(1.1 * sampling.probability)
    ratio = sizes.var() / (400 * 0.1 * 0.9) * (len(sizes) - 1)
    assert 1e-6 < stats.chi2(len(sizes) - 1).cdf(ratio) < 1 - 1e-6
    assert stats.chi2(len(sizes) - 1).cdf(0.0) < 1e-6  # shuffled batches have no variance
    taken = np.bincount(np.concatenate(batches), minlength=400)
    spread = ((taken - 300) ** 2 / (3000 * 0.1 * 0.9)).sum()
    assert 1e-6 < stats.chi2(400).cdf(spread) < 1 - 1e-6
    first, second = (np.array([row in set(rows) for rows in batches]) for row in (0, 1))
    assert abs(np.corrcoef(first, second)[0, 1]) * np.sqrt(3000) < 5


def test_probability_is_exact_in_words_of_32_bits() -> None:
    class Fixed:
        def words32(self, count: int) -> np.ndarray:
            return np.arange(count, dtype=np.uint32)

    sampling = PoissonSampling(examples=10, probability=3 / 2**32, capacity=10)
    assert sampling.draw(Fixed()).rows.tolist() == [0, 1, 2]
    whole = PoissonSampling(examples=10, probability=1.0, capacity=10)
    assert whole.draw(Fixed()).rows.tolist() == list(range(10))
    with pytest.raises(ConfigError, match="multiple"):
        PoissonSampling(examples=10, probability=0.1, capacity=10)


def test_a_full_batch_is_cut_to_a_uniform_subset() -> None:
    sampling = PoissonSampling(examples=20, probability=1.0, capacity=5)
    words = KeyStream()
    draws = [sampling.draw(words) for _ in range(2000)]
    assert {len(draw.rows) for draw in draws} == {5}
    assert {draw.truncated for draw in draws} == {15}
    taken = np.bincount(np.concatenate([draw.rows for draw in draws]), minlength=20)
    assert stats.chisquare(taken).pvalue > 1e-6


def test_chunks_have_one_shape_and_pad_with_zero_weight() -> None:
    draw = Draw(rows=np.arange(7, dtype=np.int64) + 10, truncated=0)
    chunks = list(draw.chunks(3))
    assert [c[0].tolist() for c in chunks] == [[10, 11, 12], [13, 14, 15], [16, 0, 0]]
    assert chunks[-1][1].tolist() == [1.0, 0.0, 0.0]
    assert len(list(draw.chunks(3, least=5))) == 5
    empty = Draw(rows=np.empty(0, dtype=np.int64), truncated=0)
    assert list(empty.chunks(3)) == []
    assert sum(weights.sum() for _, weights in empty.chunks(3, least=2)) == 0


def test_every_user_keeps_at_most_so_many_rows() -> None:
    users = np.array(["a"] * 10 + ["b"] * 2 + ["c"])
    words = KeyStream()
    kept = [bound_contributions(users, 3, words) for _ in range(1500)]
    for rows in kept:
        assert [int((users[rows] == name).sum()) for name in "abc"] == [3, 2, 1]
    taken = np.bincount(np.concatenate(kept), minlength=13)[:10]
    assert stats.chisquare(taken).pvalue > 1e-6


def test_words_resume() -> None:
    words = SeededWords(4)
    words.words32(100)
    state, after = words.state, words.words32(50)
    other = SeededWords(9)
    other.state = state
    assert np.array_equal(other.words32(50), after)
