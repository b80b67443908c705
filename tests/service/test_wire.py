"""The codec: an oracle round trip, and hostile bytes."""

from __future__ import annotations

import json
import struct
from typing import Any

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from reticent.service.wire import (
    BYTES,
    DATATYPES,
    Codec,
    WireError,
    WireLimits,
    datatype_of,
    decode_reply,
    encode_request,
    parse_header_length,
)

NUMERIC = [dtype for dtype in DATATYPES.values() if dtype != BYTES]
FAST = settings(max_examples=2000, deadline=None, suppress_health_check=list(HealthCheck))
MANY = settings(max_examples=100_000, deadline=None, suppress_health_check=list(HealthCheck))


def body_of(*entries: dict[str, Any], tail: bytes = b"", **top: Any) -> tuple[bytes, int]:
    head = json.dumps({"inputs": list(entries), **top}).encode()
    return head + tail, len(head)


def binary(name: str, datatype: str, shape: list[Any], size: Any) -> dict[str, Any]:
    parameters = {"binary_data_size": size}
    return {"name": name, "datatype": datatype, "shape": shape, "parameters": parameters}


def inline(datatype: str, shape: list[int], data: Any) -> dict[str, Any]:
    return {"name": "x", "datatype": datatype, "shape": shape, "data": data}


def decode(body: bytes, length: int | None = None) -> dict[str, np.ndarray]:
    return Codec().decode_request(body, length).tensors


@st.composite
def named_tensors(draw: st.DrawFn) -> dict[str, np.ndarray]:
    names = draw(
        st.lists(st.text("abcxyz_0", min_size=1, max_size=8), min_size=1, max_size=4, unique=True)
    )
    shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
    tensors = {}
    for name in names:
        if draw(st.integers(0, 4)) == 0:
            elements = draw(st.lists(st.binary(max_size=9), max_size=5))
            array = np.empty(len(elements), dtype=object)
            array[:] = elements
        else:
            array = draw(hnp.arrays(draw(st.sampled_from(NUMERIC)), draw(shapes)))
        tensors[name] = array
    return tensors


def assert_same(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> None:
    assert list(left) == list(right)
    for name, value in left.items():
        assert value.dtype == right[name].dtype
        np.testing.assert_array_equal(value, right[name])


@FAST
@given(named_tensors())
def test_what_is_encoded_is_decoded(tensors: dict[str, np.ndarray]) -> None:
    body, length = encode_request(tensors)
    codec = Codec()
    for _ in range(2):  # the second time from memory
        request = codec.decode_request(body, length)
        assert_same(request.tensors, tensors)
        assert request.binary_output
        reply, reply_length = codec.encode_reply(tensors, request, model="m", version="1")
        assert_same(decode_reply(reply, reply_length).tensors, tensors)


@FAST
@given(named_tensors())
def test_json_replies_hold_the_same_values(tensors: dict[str, np.ndarray]) -> None:
    codec = Codec()
    request = codec.decode_request(*body_of(inline("UINT8", [1], [1])))
    try:
        body, length = codec.encode_reply(tensors, request, model="m", version="1")
    except WireError:  # NaN, infinity, or bytes that are no text
        return
    assert length is None
    for name, value in decode_reply(body, None).tensors.items():
        np.testing.assert_array_equal(value, tensors[name])


def check_survives(body: bytes, length: int | None) -> None:
    """Decoding refuses with `WireError`, or its arrays are as large as the body allows."""
    codec = Codec()
    try:
        request = codec.decode_request(body, length)
    except WireError:
        return
    for value in request.tensors.values():
        assert value.dtype in DATATYPES.values()
        assert value.nbytes <= 8 * len(body)
    assert_same(codec.decode_request(body, length).tensors, request.tensors)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4)
    ),
    max_leaves=8,
)
FIELD = {
    "name": st.sampled_from(["x", "y", ""]) | JUNK,
    "datatype": st.sampled_from([*DATATYPES, "BF16", "object", "<O"]) | JUNK,
    "shape": st.lists(
        st.sampled_from([-1, 0, 1, 2, 3, 2**31, 2**63, 2**64, True, 1.5]), max_size=10
    )
    | JUNK,
    "parameters": st.fixed_dictionaries({"binary_data_size": st.integers(-2, 40) | JUNK}) | JUNK,
    "data": JUNK,
}
ENTRY = st.fixed_dictionaries({}, optional=FIELD) | JUNK
HEAD = st.fixed_dictionaries(
    {"inputs": st.lists(ENTRY, max_size=3) | JUNK},
    optional={"outputs": JUNK | st.lists(ENTRY, max_size=2), "id": JUNK, "parameters": JUNK},
)


@st.composite
def hostile_bodies(draw: st.DrawFn) -> tuple[bytes, int | None]:
    kind = draw(st.integers(0, 3))
    if kind == 0:  # no structure at all
        return draw(st.binary(max_size=60)), draw(st.none() | st.integers(-3, 80))
    if kind == 1:  # JSON of the right outline with wrong parts
        head = json.dumps(draw(HEAD)).encode()
        return head + draw(st.binary(max_size=40)), draw(st.sampled_from([None, len(head)]))
    body, length = encode_request(draw(named_tensors()))  # a good message, damaged
    if kind == 2:
        cut = draw(st.integers(0, len(body)))
        return body[:cut] + draw(st.binary(max_size=3)), length + draw(st.integers(-2, 2))
    at = draw(st.integers(0, max(0, length - 1)))
    return body[:at] + draw(st.binary(min_size=1, max_size=2)) + body[at + 1 :], length


@FAST
@given(hostile_bodies())
def test_hostile_bodies_are_refused_or_harmless(case: tuple[bytes, int | None]) -> None:
    check_survives(*case)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@MANY
@given(hostile_bodies())
def test_hostile_bodies_a_hundred_thousand_times(case: tuple[bytes, int | None]) -> None:
    check_survives(*case)


def test_one_damaged_byte_anywhere_is_refused_or_harmless() -> None:
    body, length = encode_request(
        {"x": np.arange(6, dtype="<f4").reshape(2, 3), "b": np.array([True])}
    )
    for at in range(len(body)):
        for flip in (1, 0x20, 0x80):
            check_survives(body[:at] + bytes([body[at] ^ flip]) + body[at + 1 :], length)
    for cut in range(len(body)):
        with pytest.raises(WireError):
            Codec().decode_request(body[:cut], length)


@pytest.mark.parametrize(
    ("entry", "tail", "says"),
    [
        (binary("x", "FP32", [2], 7), b"1234567", "needs 8 bytes"),
        (binary("x", "FP32", [2], 8), b"1234567", "truncated"),
        (binary("x", "FP32", [2], 8), b"123456789", "Expected a body"),
        (binary("x", "FP32", [-2], 8), b"12345678", "non-negative"),
        (binary("x", "FP32", [True, 2], 8), b"12345678", "non-negative integers"),
        (binary("x", "FP32", [2**32, 2**32], 0), b"", "too large"),
        (binary("x", "FP32", [0, 2**62], 0), b"", "too large"),
        (binary("x", "FP32", [1] * 9, 4), b"1234", "at most 8"),
        (binary("x", "BOOL", [2], 2), b"\x01\x02", "0 or 1"),
        (binary("x", "BF16", [2], 4), b"1234", "datatype"),
        (binary("x", "object", [2], 4), b"1234", "datatype"),
        (binary("x", "BYTES", [2**39], 8), b"12345678", "can't fit"),
        (binary("x", "BYTES", [1], 8), struct.pack("<I", 5) + b"1234", "within element 0"),
        (binary("x", "BYTES", [1], 8), struct.pack("<I", 3) + b"1234", "more bytes"),
        (binary("x", "FP32", [2], -8), b"", "as a length"),
        (binary("x", "FP32", [2], True), b"", "as a length"),
        (binary("x" * 300, "FP32", [2], 8), b"12345678", "256 printable"),
        (binary("x\n", "FP32", [2], 8), b"12345678", "printable"),
        (inline("INT8", [2], [1, 200]), b"", "outside INT8"),
        (inline("UINT64", [1], [2**64]), b"", "outside UINT64"),
        (inline("INT32", [1], [1.5]), b"", "INT32 values"),
        (inline("INT32", [1], [True]), b"", "INT32 values"),
        (inline("BOOL", [1], [1]), b"", "BOOL values"),
        (inline("FP32", [1], ["1"]), b"", "FP32 values"),
        (inline("FP16", [1], [1e6]), b"", "outside FP16"),
        (inline("FP64", [1], [10**400]), b"", "outside FP64"),
        (inline("FP32", [3], [[1, 2], [3]]), b"", "the data of tensor 'x'"),
        (inline("FP32", [2], [1, 2, 3]), b"", "got 3 values"),
        (inline("BYTES", [1], ["\ud800"]), b"", "Unicode"),
        ({"name": "x", "datatype": "FP32", "shape": [1]}, b"", "neither"),
        ({**binary("x", "FP32", [1], 4), "data": [1]}, b"1234", "give one"),
        (
            {
                "name": "x",
                "datatype": "FP32",
                "shape": [1],
                "parameters": {"shared_memory_region": "r"},
            },
            b"",
            "shared memory",
        ),
    ],
)
def test_each_fault_is_named(entry: dict[str, Any], tail: bytes, says: str) -> None:
    body, length = body_of(entry, tail=tail)
    with pytest.raises(WireError, match=says):
        decode(body, length)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "0 bytes"),
        (b"[]", "JSON object"),
        (b"\xff{}", "not JSON"),
        (b'{"inputs": NaN}', "not JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"inputs": [' + b"1," * 70 + b"1]}", "list of 1 to 64"),
        (b'{"inputs": []}', "list of 1 to 64"),
        (b'{"inputs": [3]}', "as an object"),
    ],
)
def test_heads_that_are_none(body: bytes, says: str) -> None:
    with pytest.raises(WireError, match=says):
        decode(body)


def test_same_name_twice_is_refused() -> None:
    with pytest.raises(WireError, match="name of its own"):
        decode(*body_of(inline("INT8", [1], [1]), inline("INT8", [1], [1])))


def test_json_longer_than_the_limit_is_refused_before_it_is_parsed() -> None:
    codec = Codec(WireLimits(json_bytes=10))
    with pytest.raises(WireError, match="json_bytes=10"):
        codec.decode_request(b'{"inputs": [', None)


def test_long_strings_do_not_multiply_memory() -> None:
    """numpy would pad each of these 2,001 strings to 100 kB: 800 MB from a 108 kB body."""
    body, _ = body_of(inline("FP32", [2001], ["a" * 100_000, *["b"] * 2000]))
    with pytest.raises(WireError, match="FP32 values"):
        decode(body)


def test_errors_do_not_quote_values() -> None:
    with pytest.raises(WireError) as caught:
        decode(*body_of(inline("INT8", [2], [1, 31337])))
    assert "31337" not in str(caught.value)


def test_heads_with_data_or_an_id_are_not_remembered() -> None:
    """What stays in the server's memory is no input and names no request."""
    codec = Codec()
    codec.decode_request(*body_of(inline("INT8", [1], [77])))
    codec.decode_request(*body_of(binary("x", "INT8", [1], 1), tail=b"\x05", id="patient-7"))
    assert not codec._requests
    codec.decode_request(*body_of(binary("x", "INT8", [1], 1), tail=b"\x05"))
    assert len(codec._requests) == 1
    assert b"\x05" not in next(iter(codec._requests))


def test_remembered_heads_are_bounded() -> None:
    codec = Codec()
    for index in range(1000):
        codec.decode_request(*body_of(binary(f"x{index}", "INT8", [1], 1), tail=b"\x05"))
    assert len(codec._requests) <= 256


def test_a_remembered_head_still_checks_the_body() -> None:
    codec = Codec()
    body, length = encode_request({"x": np.zeros(4, dtype="<f4"), "b": np.array([True, False])})
    codec.decode_request(body, length)
    for damaged in (body[:-1], body + b"\0", body[:-1] + b"\x07"):
        with pytest.raises(WireError):
            codec.decode_request(damaged, length)


def test_wanted_outputs_choose_names_and_form() -> None:
    codec = Codec()
    entry = binary("x", "INT8", [1], 1)
    wishes = [{"name": "b", "parameters": {"binary_data": True}}, {"name": "a"}]
    body, length = body_of(entry, tail=b"\x05", outputs=wishes, id="7")
    request = codec.decode_request(body, length)
    outputs = {"a": np.array([1.5], "<f4"), "b": np.array([2], "<i8"), "c": np.array([3], "<i8")}
    reply, reply_length = codec.encode_reply(outputs, request, model="m", version="1")
    head = json.loads(reply[:reply_length])
    assert head["id"] == "7"
    assert [output["name"] for output in head["outputs"]] == ["b", "a"]
    assert head["outputs"][1]["data"] == [1.5]
    assert_same(decode_reply(reply, reply_length).tensors, {n: outputs[n] for n in "ba"})
    with pytest.raises(WireError, match="outputs among"):
        codec.encode_reply({"a": outputs["a"]}, request, model="m", version="1")


def test_not_a_number_needs_a_binary_reply() -> None:
    codec = Codec()
    request = codec.decode_request(*body_of(inline("INT8", [1], [1])))
    with pytest.raises(WireError, match="in binary"):
        codec.encode_reply({"y": np.array([np.nan])}, request, model="m", version="1")


def test_decoded_tensors_are_aligned() -> None:
    for pad in range(9):
        body, length = body_of(binary("x" * (pad + 1), "FP64", [2], 16), tail=bytes(16))
        (value,) = decode(body, length).values()
        assert value.flags.aligned


def test_big_endian_arrays_travel_as_little_endian() -> None:
    value = np.array([1, 256], dtype=">i4")
    body, length = encode_request({"x": value})
    assert decode(body, length)["x"].tolist() == [1, 256]
    assert datatype_of(">i4") == "INT32"


def test_types_that_v2_lacks_are_refused() -> None:
    with pytest.raises(WireError, match="complex128"):
        encode_request({"x": np.zeros(1, dtype=complex)})
    with pytest.raises(WireError, match="Expected bytes"):
        encode_request({"x": np.array(["text"], dtype=object)})


@pytest.mark.parametrize("value", ["-1", "1e3", "", "0x10", " 5", "9" * 13, "٣"])
def test_header_lengths_that_are_none(value: str) -> None:
    if value == "٣":
        value = value.encode().decode("latin-1")
    with pytest.raises(WireError):
        parse_header_length(value)
