"""Exact draws: the bits and integers have the probabilities that they state, to the last one."""

from __future__ import annotations

import numpy as np
import pytest
from local_oracles import Scripted
from scipy import stats

from reticent.errors import ConfigError
from reticent.release.local.draws import (
    ExperimentSource,
    SecureSource,
    below,
    below_each,
    bernoulli,
    source_for,
)


@pytest.mark.parametrize("threshold", [0, 1, 2**56 - 1, 2**56, 2**63, 3 * 2**56 + 5, 2**64 - 1])
def test_a_bit_is_the_comparison_of_a_64_bit_word(threshold: int) -> None:
    top, rest = divmod(threshold, 2**56)
    first = np.arange(256, dtype=np.uint8)
    # At the one undecided first byte, words just below and at the threshold.
    for low in {max(rest - 1, 0), rest}:
        seven = np.frombuffer(low.to_bytes(7, "little"), dtype=np.uint8)
        made = bernoulli(Scripted(first, seven), threshold, (256,))
        expected = [(byte << 56) + (low if byte == top else 0) < threshold for byte in range(256)]
        assert made.tolist() == expected


def test_undecided_bytes_alone_cost_more() -> None:
    source = Scripted(np.array([5, 200, 7, 6, 6], dtype=np.uint8), np.zeros(14, dtype=np.uint8))
    made = bernoulli(source, 6 * 2**56 + 1, (5,))
    assert made.tolist() == [True, False, False, True, True]
    assert len(source.rest) == 0


@pytest.mark.parametrize(("high", "size"), [(10, 4), (2**24, 4), (3 * 2**40, 8), (2**63, 8)])
def test_words_above_the_last_whole_multiple_are_drawn_again(high: int, size: int) -> None:
    limit = 2 ** (8 * size) // high * high
    words = [word for word in (limit, limit + 1) if word < 2 ** (8 * size)]
    sent = [*words[:1], high + 3, limit - 1] if words else [high + 3, limit - 1, 4]
    script = b"".join(word.to_bytes(size, "little") for word in sent)
    again = (high - 1).to_bytes(size, "little") * 4
    source = Scripted(np.frombuffer(script + again, dtype=np.uint8))
    expected = [3 % high, high - 1, high - 1] if words else [3, high - 1, 4]
    assert below(source, high, 3).tolist() == expected


def test_every_integer_is_as_likely() -> None:
    for high in (1, 2, 6, 100):
        drawn = below(SecureSource(), high, 50_000)
        counts = np.bincount(drawn, minlength=high)
        assert len(counts) == high
        assert high == 1 or stats.chisquare(counts).pvalue > 1e-6


def test_each_threshold_is_its_own() -> None:
    thresholds = np.array([0, 1, 5, 2**62])
    word = np.frombuffer((1 << 2).to_bytes(8, "little") * 4, dtype=np.uint8)
    assert below_each(Scripted(word), thresholds, 62).tolist() == [False, False, True, True]


def test_secure_bytes_are_uniform_and_never_repeat() -> None:
    first, second = SecureSource().bytes(70_001), SecureSource().bytes(70_001)
    assert first.shape == second.shape == (70_001,)
    assert not np.array_equal(first, second)
    assert stats.chisquare(np.bincount(first, minlength=256)).pvalue > 1e-6
    by_place = [stats.chisquare(np.bincount(first[i::7], minlength=256)).pvalue for i in range(7)]
    assert min(by_place) > 1e-7


def test_a_seed_is_for_experiments_only() -> None:
    assert source_for().is_secure
    made = source_for(experiment=True, seed=3)
    assert not made.is_secure
    assert np.array_equal(made.bytes(9), ExperimentSource(3).bytes(9))
    for given in ({"seed": 3}, {"experiment": True}):
        with pytest.raises(ConfigError, match="Expected a seed with experiment=True and only then"):
            source_for(**given)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="high=0"):
        below(made, 0, 1)
    with pytest.raises(ValueError, match="threshold"):
        bernoulli(made, 2**64, (1,))
