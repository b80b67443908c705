"""The one shape of a query: specs that match exactly, replies that are checked, honest records."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from reticent.data.task import Kind
from reticent.errors import BundleError
from reticent.inference.channel import Tensors, TensorSpec, ask, decode_scores
from reticent.transcript import Transcript

ANSWER = TensorSpec(name="scores", dtype="float32", shape=(None, 3))


@given(
    st.builds(
        TensorSpec,
        name=st.text(),
        dtype=st.sampled_from(["float32", "uint8", "uint16", "int64"]),
        shape=st.lists(st.none() | st.integers(0, 9), max_size=4).map(tuple),
    )
)
def test_json_restores_a_spec(spec: TensorSpec) -> None:
    assert TensorSpec.from_json(spec.to_json()) == spec
    shape = tuple(2 if size is None else size for size in spec.shape)
    assert spec.matches(np.zeros(shape, spec.dtype))


@pytest.mark.parametrize(
    "value",
    [
        np.zeros((2, 3), np.float64),
        np.zeros((2, 4), np.float32),
        np.zeros((2,), np.float32),
        np.zeros((2, 3, 1), np.float32),
    ],
)
def test_another_type_or_shape_does_not_match(value: NDArray[Any]) -> None:
    assert ANSWER.matches(np.zeros((2, 3), np.float32))
    assert not ANSWER.matches(value)


@pytest.mark.parametrize(
    "change",
    [{"dtype": "float99"}, {"shape": [-2, 3]}, {"shape": 3}, {"shape": ["x"]}, {"name": 5}],
)
def test_a_malformed_spec_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(BundleError):
        TensorSpec.from_json(ANSWER.to_json() | change)


@pytest.mark.parametrize("field", ["name", "dtype", "shape"])
def test_a_spec_without_a_field_is_refused(field: str) -> None:
    record = ANSWER.to_json()
    del record[field]
    with pytest.raises(BundleError):
        TensorSpec.from_json(record)


def test_scores_become_classes_or_values() -> None:
    scores = np.array([[0.1, 0.7, 0.2], [2.0, 1.0, 0.0]], np.float32)
    assert decode_scores({"scores": scores}, ANSWER, Kind.CLASSIFICATION).tolist() == [1, 0]
    assert decode_scores({"scores": scores}, ANSWER, Kind.ANOMALY).tolist() == [1, 0]
    value = TensorSpec(name="scores", dtype="float32", shape=(None, 1))
    decoded = decode_scores({"scores": scores[:, :1]}, value, Kind.REGRESSION)
    np.testing.assert_array_equal(decoded, scores[:, 0])


@pytest.mark.parametrize(
    "reply",
    [
        {},
        {"logits": np.zeros((2, 3), np.float32)},
        {"scores": np.zeros((2, 4), np.float32)},
        {"scores": np.zeros((2, 3), np.float64)},
        {"scores": np.full((2, 3), np.nan, np.float32)},
        {"scores": np.full((2, 3), np.inf, np.float32)},
    ],
)
def test_a_reply_of_another_kind_is_refused(reply: Tensors) -> None:
    with pytest.raises(BundleError):
        decode_scores(reply, ANSWER, Kind.CLASSIFICATION)


class Doubling:
    """A client and a server in one: sends x, gets 2x back."""

    inputs = outputs = (ANSWER,)

    def encode(self, x: NDArray[np.float32]) -> Tensors:
        return {"features": x}

    def answer(self, request: Tensors) -> Tensors:
        return {"scores": 2 * request["features"]}

    def decode(self, reply: Tensors) -> NDArray[Any]:
        return reply["scores"].sum(axis=1)


def test_asking_writes_down_exactly_what_crossed() -> None:
    x, transcript = np.ones((2, 3), np.float32), Transcript()
    assert ask(Doubling(), Doubling(), x, transcript=transcript).tolist() == [6.0, 6.0]
    sent, got = transcript
    assert (sent.sender, sent.receiver, sent.name) == ("client", "server", "features")
    assert (got.sender, got.receiver, got.name) == ("server", "client", "scores")
    np.testing.assert_array_equal(sent.payload, x)
    np.testing.assert_array_equal(got.payload, 2 * x)
