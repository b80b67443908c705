"""Traffic analysis: sizes and times as an observer reads them, and what they tell."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import mutual_info_score

from reticent.attacks.traffic import (
    Traffic,
    guess_by_nearest,
    guess_by_sizes,
    mutual_information,
    symbols,
)
from reticent.errors import DataError
from reticent.transcript import Transcript


def test_a_transcript_is_cut_into_exchanges_of_bytes() -> None:
    transcript = Transcript()
    for size in (4, 7):
        transcript.record("client", "server", "features", np.zeros(size, np.float32))
        transcript.record("client", "server", "name", "abc")
        transcript.record("server", "server", "log", "not on the wire")
        transcript.record("server", "client", "answer", np.zeros(2, np.int64))
    traffic = Traffic.of_transcript(transcript)
    assert traffic.request.tolist() == [19, 31]
    assert traffic.reply.tolist() == [16, 16]
    assert not traffic.is_constant
    assert traffic.take(np.array([0])).is_constant
    transcript.record("client", "server", "features", np.zeros(1, np.float32))
    with pytest.raises(DataError, match="3 requests and 2 replies"):
        Traffic.of_transcript(transcript)
    with pytest.raises(DataError, match="whole exchanges"):
        Traffic.of_transcript(Transcript())


def test_arrays_that_do_not_fit_are_refused() -> None:
    one = np.ones(3, dtype=np.int64)
    with pytest.raises(DataError, match="shape"):
        Traffic(request=one, reply=one[:2])
    with pytest.raises(DataError, match="finite"):
        Traffic(request=one, reply=one, seconds=np.array([0.1, np.nan, 0.2]))


def test_sizes_are_guessed_as_the_bayes_rule_does() -> None:
    own = Traffic(request=np.array([1, 1, 1, 2, 2]), reply=np.array([5, 5, 5, 5, 5]))
    classes = np.array([0, 0, 1, 1, 0])
    seen = Traffic(request=np.array([1, 2, 9]), reply=np.array([5, 5, 5]))
    # Request 1: 2/3 of class 0 against 1/2 of class 1. Request 2: 1/3 against 1/2.
    assert guess_by_sizes(own, classes, seen, 0).tolist() == [0, 1, 0]


def test_times_are_guessed_by_their_neighbours() -> None:
    rng = np.random.default_rng(0)
    classes = rng.integers(3, size=600)
    seconds = 0.1 * classes + 0.01 * rng.normal(size=600)
    same = np.ones(600, dtype=np.int64)
    traffic = Traffic(request=same, reply=same, seconds=seconds)
    guesses = guess_by_nearest(
        traffic.take(np.arange(300)), classes[:300], traffic.take(np.arange(300, 600)), 0
    )
    assert guesses is not None
    assert (guesses == classes[300:]).mean() > 0.98
    untimed = Traffic(request=same, reply=same)
    assert guess_by_nearest(untimed, classes, untimed, 0) is None


def test_mutual_information_is_sklearns_and_zero_for_a_constant() -> None:
    rng = np.random.default_rng(1)
    first, second = rng.integers(5, size=400), rng.integers(3, size=400)
    assert mutual_information(first, second) == pytest.approx(mutual_info_score(first, second))
    assert mutual_information(np.zeros(400, dtype=np.int64), second) == 0.0
    assert mutual_information(second, second) == pytest.approx(
        -(p := np.bincount(second) / 400) @ np.log(p)
    )
    same = np.ones(400, dtype=np.int64)
    timed = Traffic(request=same, reply=same, seconds=rng.random(400))
    assert len(np.unique(symbols(timed, bands=4))) == 4
