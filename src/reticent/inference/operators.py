"""Which operators an encoder may use, checked on the file itself before anything runs it.

A client has no `onnx` package, so the few fields that matter are read from the protobuf wire
format (onnx.proto3 gives their numbers). A graph that passes is a pure function of its batch: no
randomness and so no state, no control flow, no operators from elsewhere, and no weights in other
files, which could carry what stands in them out of the client's machine.
"""

from __future__ import annotations

from collections.abc import Iterator

from reticent.errors import BundleError

# Dropout is here because its training mode is an input: whether it draws can't be read off it.
RANDOM = frozenset(
    {
        "RandomNormal",
        "RandomUniform",
        "RandomNormalLike",
        "RandomUniformLike",
        "Multinomial",
        "Bernoulli",
        "Dropout",
    }
)
DOMAINS = frozenset({"", "ai.onnx"})

_TRAINING_INFO, _FUNCTIONS, _GRAPH = 20, 25, 7
_NODE, _INITIALIZER, _SPARSE_INITIALIZER = 1, 5, 15
_OP_TYPE, _ATTRIBUTE, _DOMAIN = 4, 5, 7
_NAMES = (_OP_TYPE, _DOMAIN)
_TENSOR, _SUBGRAPH, _TENSORS, _SUBGRAPHS = 5, 6, 10, 11
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14

Field = tuple[int, int | bytes]


def check_operators(model: bytes) -> None:
    """Raise `BundleError` unless the ONNX file `model` is a pure function of its input."""
    try:
        for number, value in _fields(model):
            if number in (_FUNCTIONS, _TRAINING_INFO):
                raise BundleError("The graph brings functions or training steps: refused.")
            if number == _GRAPH:
                _check_graph(_bytes(value))
    except (IndexError, ValueError) as error:
        raise BundleError("The file is no valid ONNX graph.") from error


def _check_graph(graph: bytes) -> None:
    for number, value in _fields(graph):
        if number == _NODE:
            _check_node(_bytes(value))
        elif number == _INITIALIZER:
            _check_tensor(_bytes(value))
        elif number == _SPARSE_INITIALIZER:
            raise BundleError("The graph keeps sparse weights: not portable.")


def _check_node(node: bytes) -> None:
    fields = list(_fields(node))
    named = {number: _bytes(value).decode() for number, value in fields if number in _NAMES}
    operator, domain = named.get(_OP_TYPE, ""), named.get(_DOMAIN, "")
    if domain not in DOMAINS:
        raise BundleError(f"The graph needs the operator {domain}.{operator}: not portable.")
    if operator in RANDOM:
        raise BundleError(f"The graph draws randomness ({operator}) inside: refused.")
    for number, value in fields:
        if number != _ATTRIBUTE:
            continue
        for inner, content in _fields(_bytes(value)):
            if inner in (_SUBGRAPH, _SUBGRAPHS):
                raise BundleError(f"The graph has control flow ({operator}) inside: refused.")
            if inner in (_TENSOR, _TENSORS):
                _check_tensor(_bytes(content))


def _check_tensor(tensor: bytes) -> None:
    for number, value in _fields(tensor):
        if number == _EXTERNAL_DATA or (number == _DATA_LOCATION and value != 0):
            raise BundleError("The graph keeps weights in another file: not self-contained.")


def _fields(message: bytes) -> Iterator[Field]:
    """Number and value of each field: an integer, or the bytes of anything longer."""
    at, end = 0, len(message)
    while at < end:
        key, at = _varint(message, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(message, at)
            yield number, value
            continue
        size = {1: 8, 5: 4}.get(wire)
        if wire == 2:
            size, at = _varint(message, at)
        if size is None or at + size > end:
            raise ValueError(f"field {number} of wire type {wire} at byte {at}")
        yield number, message[at : at + size]
        at += size


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
        if shift > 63:
            raise ValueError(f"number too long at byte {at}")


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError(f"expected bytes, got the number {value}")
    return value
