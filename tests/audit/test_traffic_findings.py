"""The traffic audit: constant sizes are exactly silent, lengths and times that vary are heard."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from reticent.attacks.finding import Finding
from reticent.attacks.traffic import Traffic
from reticent.audit.traffic import audit_traffic
from reticent.errors import DataError
from reticent.service.wire import Codec, encode_request

N = 900
SAME = np.full(N, 64)


def classes(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(3, size=N)


def test_constant_sizes_tell_exactly_nothing() -> None:
    (found,) = audit_traffic(Traffic(request=SAME, reply=SAME), classes())
    assert found.excess == 0.0
    assert found.excess_ci == (0.0, 0.0)
    assert found.value == found.floor == pytest.approx(1 / 3)
    assert found.details["mutual information"]["nats"] == 0.0


def test_a_reply_whose_length_is_the_answer_is_read() -> None:
    kind = classes()
    (found,) = audit_traffic(Traffic(request=SAME, reply=SAME + 3 * kind), kind)
    assert found.value == 1.0
    assert found.details["mutual information"]["nats"] == pytest.approx(np.log(3), abs=0.01)
    assert found.details["mutual information"]["p-value"] < 0.01
    assert found.details["negative control"]["passed"]
    assert Finding.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_a_slow_answer_is_read_from_its_time() -> None:
    kind = classes(1)
    rng = np.random.default_rng(2)
    seconds = 0.05 + 0.02 * (kind == 2) + 0.004 * rng.normal(size=N)
    (found,) = audit_traffic(Traffic(request=SAME, reply=SAME, seconds=seconds), kind)
    assert found.excess_ci[0] > 0.2
    assert found.value < 0.8
    assert found.details["positive control"]["passed"]


@pytest.mark.parametrize("seed", range(4))
def test_lengths_and_times_that_have_nothing_to_do_with_it_say_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed + 100)
    traffic = Traffic(request=SAME + rng.integers(40, size=N), reply=SAME, seconds=rng.random(N))
    (found,) = audit_traffic(traffic, classes(seed), seed=seed)
    assert found.excess_ci[0] <= 0.02
    assert found.details["positive control"]["passed"]


def test_a_person_who_sends_long_requests_is_no_proof_about_others() -> None:
    """Each user has one length and one class at random: records would seem to tell it."""
    users = np.arange(N) % 30
    rng = np.random.default_rng(5)
    kind, length = rng.integers(2, size=30), rng.permutation(30)
    traffic = Traffic(request=SAME + length[users], reply=SAME)
    (alone,) = audit_traffic(traffic, kind[users])
    (dealt,) = audit_traffic(traffic, kind[users], users=users)
    assert alone.value == 1.0
    assert dealt.excess_ci[0] <= 0


def test_too_little_to_judge_is_refused() -> None:
    with pytest.raises(DataError, match="two"):
        audit_traffic(Traffic(request=SAME, reply=SAME), np.zeros(N, dtype=np.int64))
    few = Traffic(request=SAME[:10], reply=SAME[:10])
    with pytest.raises(DataError, match="40 exchanges"):
        audit_traffic(few, classes()[:10])
    with pytest.raises(DataError, match="6 users"):
        audit_traffic(Traffic(request=SAME, reply=SAME + 1 + classes()), classes(), users=SAME)


def replies(binary: bool) -> tuple[Traffic, np.ndarray]:
    """What the service's own codec makes of a confident 12-class model's answers."""
    rng = np.random.default_rng(7)
    kind = rng.integers(12, size=N)
    logits = rng.normal(size=(N, 12)).astype(np.float32)
    logits[np.arange(N), kind] += 6.0
    codec = Codec()
    body, length = encode_request({"x": np.zeros((1, 4), np.float32)})
    request = replace(codec.decode_request(body, length), binary_output=binary)
    sizes = [
        len(
            codec.encode_reply(
                {"class": np.array([row.argmax()])}, request, model="m", version="1"
            )[0]
        )
        for row in logits
    ]
    return Traffic(request=np.full(N, len(body)), reply=np.array(sizes)), logits.argmax(axis=1)


def test_the_services_binary_replies_are_silent_and_its_json_tells_long_numbers() -> None:
    (silent,) = audit_traffic(*replies(binary=True))
    assert silent.details["all exchanges look alike"]
    assert silent.excess == 0.0
    (told,) = audit_traffic(*replies(binary=False))
    # Classes 10 and 11 take a digit more: two groups are told apart, 2 of 12 classes named.
    assert told.value == pytest.approx(2 / 12, abs=0.02)
    assert told.excess_ci[0] > 0.05
