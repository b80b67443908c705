"""The V2 wire codec: bytes to named arrays and back, with no network in it.

Open Inference Protocol V2 (KServe), REST form, with the binary tensor extension: a body is a JSON
head, then the raw little-endian bytes of those tensors whose `binary_data_size` the head states,
in the head's order. The head's length travels in the HTTP header
`Inference-Header-Content-Length`; without it the whole body is JSON.

Both ends treat the other as hostile. Whatever the bytes, decoding returns arrays of a listed type
whose sizes were checked, or raises `WireError`; it allocates no more than a constant times the
body's length.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reticent.errors import InputError

HEADER_LENGTH = "inference-header-content-length"
BYTES = np.dtype(object)
DATATYPES: Mapping[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BYTES": BYTES,
}
_NAMES: Mapping[np.dtype[Any], str] = {dtype: name for name, dtype in DATATYPES.items()}
_MAX_ELEMENTS = 2**40  # far above any body's length; keeps numpy's own size arithmetic in range
_ALIGNMENT = 8
_MAX_REMEMBERED = 256  # heads
_MAX_REMEMBERED_BYTES = 1024  # of one head


def _refuse_constant(name: str) -> float:
    raise ValueError(name)  # NaN and Infinity are Python's, not JSON's


# Built once: `json.loads` and `json.dumps` with options build them anew at each call.
_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)
_ENCODER = json.JSONEncoder(separators=(",", ":"), allow_nan=False)


class WireError(InputError):
    """The bytes are not a V2 message that we accept."""


@dataclass(frozen=True, kw_only=True)
class WireLimits:
    """What one message may hold; the body's own length is capped before it gets here."""

    json_bytes: int = 1 << 20
    tensors: int = 64
    dims: int = 8
    name_bytes: int = 256


DEFAULT_LIMITS = WireLimits()


@dataclass(frozen=True, kw_only=True, slots=True)
class WireRequest:
    """A decoded request.

    `wanted` maps the outputs that the client named to whether it wants them in binary (None:
    as `binary_output` says); empty means all outputs.
    """

    tensors: dict[str, NDArray[Any]]
    wanted: Mapping[str, bool | None] = field(default_factory=dict)
    binary_output: bool = False
    id: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class WireReply:
    """A decoded reply."""

    tensors: dict[str, NDArray[Any]]
    model: str
    version: str | None = None
    id: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Slot:
    """One tensor as a head describes it: `size` bytes after the head, or (None) its JSON data."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    count: int
    size: int | None
    data: Any = None


class Codec:
    """The server's end of the wire.

    Clients send the same few heads over and over, so short ones that hold no data and no id are
    parsed once and remembered, as are the heads of replies: that halves the codec's cost. What is
    remembered are names, types, shapes and parameters, never values.
    """

    def __init__(self, limits: WireLimits = DEFAULT_LIMITS) -> None:
        self._limits = limits
        self._requests: dict[bytes, tuple[tuple[_Slot, ...], WireRequest]] = {}
        self._replies: dict[Any, bytes] = {}

    def decode_request(self, body: bytes, header_length: int | None) -> WireRequest:
        """The request in `body`. Raises `WireError` unless it is complete and consistent."""
        length = _head_length(body, header_length, self._limits)
        head = body[:length]
        known = self._requests.get(head)
        if known is None:
            known = _parse_request(head, self._limits)
            if length <= _MAX_REMEMBERED_BYTES and length < len(body) and known[1].id is None:
                _remember(self._requests, head, known)
        slots, request = known
        return WireRequest(
            tensors=_read(slots, body, length),
            wanted=request.wanted,
            binary_output=request.binary_output,
            id=request.id,
            parameters=request.parameters,
        )

    def encode_reply(
        self, tensors: Mapping[str, NDArray[Any]], request: WireRequest, *, model: str, version: str
    ) -> tuple[bytes, int | None]:
        """The body that answers `request`, and its head's length (None: the body is all JSON).

        Raises `WireError` when the client wants an output that there is not, or JSON for values
        that JSON can't hold.
        """
        if request.id is not None or request.wanted or not request.binary_output:
            return _encode_reply(tensors, request, model=model, version=version)
        key = (model, version, *[(n, a.dtype, a.shape) for n, a in tensors.items()])
        head = self._replies.get(key)
        if head is None:
            body, length = _encode_reply(tensors, request, model=model, version=version)
            is_short = length is not None and length <= _MAX_REMEMBERED_BYTES
            if is_short and all(array.dtype != BYTES for array in tensors.values()):
                _remember(self._replies, key, body[:length])
            return body, length
        return head + b"".join([_raw(array) for array in tensors.values()]), len(head)


def encode_request(
    tensors: Mapping[str, NDArray[Any]], *, parameters: Mapping[str, Any] | None = None
) -> tuple[bytes, int]:
    """The body, all tensors in binary, and its head's length; asks for a binary reply."""
    entries, chunks = _pack(tensors, binary=tensors.keys())
    document = {"parameters": {**(parameters or {}), "binary_data_output": True}, "inputs": entries}
    return _join(document, chunks)


def decode_reply(
    body: bytes, header_length: int | None, *, limits: WireLimits = DEFAULT_LIMITS
) -> WireReply:
    """The reply in `body`. Raises `WireError` for anything but a complete, consistent message."""
    length = _head_length(body, header_length, limits)
    document = _document(body[:length])
    return WireReply(
        tensors=_read(_slots(document, "outputs", limits), body, length),
        model=_short_text(document, "model_name", limits) or "",
        version=_short_text(document, "model_version", limits),
        id=_short_text(document, "id", limits),
    )


def parse_header_length(value: str | bytes | None) -> int | None:
    """The HTTP header's value as a length; None when the header is absent."""
    if value is None:
        return None
    if not value.isdigit() or len(value) > 12:
        raise WireError(f"Expected {HEADER_LENGTH} as a decimal length, got value={value[:20]!r}.")
    return int(value)


def datatype_of(dtype: str | np.dtype[Any]) -> str:
    """The V2 name of a numpy type. Raises `WireError` for a type that V2 doesn't carry."""
    little = np.dtype(dtype).newbyteorder("<")
    if little not in _NAMES:
        raise WireError(f"Expected a dtype among {sorted(map(str, _NAMES))}, got dtype={dtype}.")
    return _NAMES[little]


def _remember(memory: dict[Any, Any], key: Any, value: Any) -> None:
    if len(memory) >= _MAX_REMEMBERED:
        memory.clear()
    memory[key] = value


def _parse_request(head: bytes, limits: WireLimits) -> tuple[tuple[_Slot, ...], WireRequest]:
    document = _document(head)
    parameters = _parameters(document)
    return _slots(document, "inputs", limits), WireRequest(
        tensors={},
        wanted=_wanted(document.get("outputs"), limits),
        binary_output=_flag(parameters, "binary_data_output") or False,
        id=_short_text(document, "id", limits),
        parameters=parameters,
    )


def _encode_reply(
    tensors: Mapping[str, NDArray[Any]], request: WireRequest, *, model: str, version: str
) -> tuple[bytes, int | None]:
    binary: Collection[str] = tensors.keys() if request.binary_output else ()
    if request.wanted:
        for name in request.wanted:
            if name not in tensors:
                raise WireError(f"Expected outputs among {sorted(tensors)}, got name={name!r}.")
        tensors = {name: tensors[name] for name in request.wanted}
        binary = {
            name
            for name, wish in request.wanted.items()
            if (request.binary_output if wish is None else wish)
        }
    entries, chunks = _pack(tensors, binary=binary)
    document: dict[str, Any] = {"model_name": model, "model_version": version}
    if request.id is not None:
        document["id"] = request.id
    document["outputs"] = entries
    if not binary:
        return _dump(document), None
    return _join(document, chunks)


def _head_length(body: bytes, header_length: int | None, limits: WireLimits) -> int:
    length = len(body) if header_length is None else header_length
    if not 0 < length <= len(body):
        raise WireError(
            f"Expected a JSON head of 1 to {len(body)} bytes (the body's length), "
            f"got header_length={length}. Was the body truncated?"
        )
    if length > limits.json_bytes:
        raise WireError(
            f"Expected at most json_bytes={limits.json_bytes} of JSON, got {length}. "
            "Send tensors in binary."
        )
    return length


def _document(head: bytes) -> dict[str, Any]:
    try:
        document = _DECODER.decode(head.decode())
    except RecursionError:
        raise WireError("The JSON head is nested too deeply.") from None
    except ValueError as error:
        # The parser's own message may quote the body, so only its kind is passed on.
        raise WireError(f"The head is not JSON ({type(error).__name__}).") from None
    if type(document) is not dict:
        raise WireError(f"Expected a JSON object as the head, got {type(document).__name__}.")
    return document


def _slots(document: dict[str, Any], key: str, limits: WireLimits) -> tuple[_Slot, ...]:
    entries = document.get(key)
    if type(entries) is not list or not 0 < len(entries) <= limits.tensors:
        raise WireError(f"Expected {key!r} as a list of 1 to {limits.tensors} tensors.")
    slots = tuple(_slot(entry, limits) for entry in entries)
    if len({slot.name for slot in slots}) < len(slots):
        raise WireError(f"Expected a name of its own for every entry of {key!r}.")
    return slots


def _slot(entry: Any, limits: WireLimits) -> _Slot:
    if type(entry) is not dict:
        raise WireError("Expected every tensor as an object.")
    name = _short_text(entry, "name", limits)
    if not name:
        raise WireError("Expected a name for every tensor.")
    datatype = entry.get("datatype")
    dtype = DATATYPES.get(datatype) if type(datatype) is str else None
    if dtype is None:
        raise WireError(f"Expected a datatype among {', '.join(DATATYPES)} for tensor {name!r}.")
    shape, count = _shape(entry.get("shape"), name, limits)
    size, data = _binary_size(entry, name), entry.get("data")
    if size is None:
        if type(data) is not list:
            raise WireError(f"Tensor {name!r} has neither a list 'data' nor a binary_data_size.")
    elif "data" in entry:
        raise WireError(f"Tensor {name!r} states both data and binary_data_size: give one.")
    elif dtype is BYTES and 4 * count > size:
        raise WireError(f"BYTES tensor {name!r} of {count} elements can't fit in {size} bytes.")
    elif dtype is not BYTES and count * dtype.itemsize != size:
        raise WireError(
            f"Tensor {name!r} of shape {list(shape)} needs {count * dtype.itemsize} bytes as "
            f"{datatype}, got binary_data_size={size}."
        )
    return _Slot(name=name, dtype=dtype, shape=shape, count=count, size=size, data=data)


def _read(slots: tuple[_Slot, ...], body: bytes, offset: int) -> dict[str, NDArray[Any]]:
    end = offset + sum([slot.size or 0 for slot in slots])
    if end != len(body):
        raise WireError(
            f"Expected a body of {end} bytes as the head states, got {len(body)}. Was it truncated?"
        )
    tensors: dict[str, NDArray[Any]] = {}
    for slot in slots:
        if slot.size is None:
            tensors[slot.name] = _from_json(slot)
        else:
            tensors[slot.name] = _from_bytes(slot, body, offset)
            offset += slot.size
    return tensors


def _shape(value: Any, name: str, limits: WireLimits) -> tuple[tuple[int, ...], int]:
    if type(value) is not list or len(value) > limits.dims:
        raise WireError(f"Expected a shape of at most {limits.dims} sizes for tensor {name!r}.")
    span = 1
    for size in value:
        if type(size) is not int or size < 0:
            raise WireError(f"Expected non-negative integers in the shape of tensor {name!r}.")
        span *= size or 1
        if span > _MAX_ELEMENTS:
            raise WireError(f"The shape of tensor {name!r} is too large.")
    return tuple(value), (0 if 0 in value else span)


def _binary_size(entry: dict[str, Any], name: str) -> int | None:
    parameters = _parameters(entry)
    if "shared_memory_region" in parameters:
        raise WireError(f"Tensor {name!r} names shared memory, which is not offered. Send bytes.")
    size = parameters.get("binary_data_size")
    if size is not None and (type(size) is not int or size < 0):
        raise WireError(f"Expected binary_data_size as a length for tensor {name!r}.")
    return size


def _from_bytes(slot: _Slot, body: bytes, offset: int) -> NDArray[Any]:
    dtype, count = slot.dtype, slot.count
    if dtype is BYTES:
        return _split_bytes(slot, body, offset)
    if dtype.kind == "b" and count:
        # Any other byte in a numpy bool is undefined behaviour.
        highest = int(np.frombuffer(body, dtype=np.uint8, count=count, offset=offset).max())
        if highest > 1:
            raise WireError(f"Expected bytes 0 or 1 in BOOL tensor {slot.name!r}.")
    array = np.frombuffer(body, dtype, count, offset).reshape(slot.shape)
    return array if array.flags.aligned else array.copy()


def _split_bytes(slot: _Slot, body: bytes, offset: int) -> NDArray[Any]:
    """BYTES elements: each a 4-byte little-endian length, then that many bytes."""
    assert slot.size is not None
    array = np.empty(slot.count, dtype=object)
    end = offset + slot.size
    for index in range(slot.count):
        length = int.from_bytes(body[offset : offset + 4], "little")
        offset += 4
        if length > end - offset:
            raise WireError(f"BYTES tensor {slot.name!r} ends within element {index}.")
        array[index] = body[offset : offset + length]
        offset += length
    if offset != end:
        raise WireError(f"BYTES tensor {slot.name!r} holds more bytes than its elements.")
    return array.reshape(slot.shape)


def _from_json(slot: _Slot) -> NDArray[Any]:
    name, dtype, shape, count = slot.name, slot.dtype, slot.shape, slot.count
    # An object array first: numpy would otherwise pad strings to the longest one, which turns a
    # small body into a huge allocation, and would coerce mixed types silently.
    try:
        values = np.array(slot.data, dtype=object)
    except ValueError:
        raise WireError(f"The data of tensor {name!r} are ragged.") from None
    if values.size != count or values.shape not in (shape, (count,)):
        raise WireError(
            f"Expected the data of tensor {name!r} flat or in shape {list(shape)}, "
            f"got {values.size} values in shape {list(values.shape)[:8]}."
        )
    flat = values.reshape(-1)
    kinds = set(map(type, flat.tolist()))
    if not kinds <= _json_types(dtype):
        raise WireError(f"Expected {_NAMES[dtype]} values in the data of tensor {name!r}.")
    if dtype is BYTES:
        return _utf8(flat, name).reshape(shape)
    if dtype.kind in "iu" and count:
        info = np.iinfo(dtype)
        if min(flat) < info.min or max(flat) > info.max:
            raise WireError(f"Values outside {_NAMES[dtype]} in the data of tensor {name!r}.")
    try:
        with np.errstate(over="ignore"):
            array = flat.astype(dtype)
    except OverflowError:
        raise WireError(f"Values outside {_NAMES[dtype]} in the data of tensor {name!r}.") from None
    if dtype.kind == "f" and not np.isfinite(array).all():
        raise WireError(f"Values outside {_NAMES[dtype]} in the data of tensor {name!r}.")
    return array.reshape(shape)


def _json_types(dtype: np.dtype[Any]) -> set[type]:
    allowed: dict[str, set[type]] = {"O": {str}, "b": {bool}, "f": {int, float}}
    return allowed.get(dtype.kind, {int})


def _utf8(flat: NDArray[Any], name: str) -> NDArray[Any]:
    array = np.empty(len(flat), dtype=object)
    try:
        array[:] = [text.encode() for text in flat]
    except UnicodeEncodeError:
        raise WireError(f"The data of BYTES tensor {name!r} are not valid Unicode.") from None
    return array


def _wanted(entries: Any, limits: WireLimits) -> dict[str, bool | None]:
    if entries is None:
        return {}
    if type(entries) is not list or len(entries) > limits.tensors:
        raise WireError(f"Expected 'outputs' as a list of at most {limits.tensors} outputs.")
    wanted: dict[str, bool | None] = {}
    for entry in entries:
        name = _short_text(entry, "name", limits) if type(entry) is dict else None
        if not name or name in wanted:
            raise WireError(f"Expected a name of its own for every output, got name={name!r}.")
        parameters = _parameters(entry)
        unsupported = {"classification", "shared_memory_region"} & parameters.keys()
        if unsupported:
            raise WireError(f"Output {name!r} asks for {min(unsupported)}, which is not offered.")
        wanted[name] = _flag(parameters, "binary_data")
    return wanted


def _parameters(owner: dict[str, Any]) -> dict[str, Any]:
    parameters = owner.get("parameters")
    if parameters is None:
        return {}
    if type(parameters) is not dict:
        raise WireError("Expected 'parameters' as an object.")
    return parameters


def _flag(parameters: dict[str, Any], key: str) -> bool | None:
    value = parameters.get(key)
    if value is not None and type(value) is not bool:
        raise WireError(f"Expected {key!r} as true or false.")
    return value


def _short_text(owner: dict[str, Any], key: str, limits: WireLimits) -> str | None:
    value = owner.get(key)
    if value is None:
        return None
    if type(value) is not str or len(value) > limits.name_bytes or not value.isprintable():
        raise WireError(f"Expected {key!r} as at most {limits.name_bytes} printable characters.")
    return value


def _pack(
    tensors: Mapping[str, NDArray[Any]], *, binary: Collection[str]
) -> tuple[list[dict[str, Any]], list[bytes]]:
    entries, chunks = [], []
    for name, array in tensors.items():
        datatype = _NAMES.get(array.dtype) or datatype_of(array.dtype)
        entry: dict[str, Any] = {"name": name, "datatype": datatype, "shape": list(array.shape)}
        if name in binary:
            chunk = _raw(array)
            entry["parameters"] = {"binary_data_size": len(chunk)}
            chunks.append(chunk)
        else:
            entry["data"] = _json_values(array, name)
        entries.append(entry)
    return entries, chunks


def _raw(array: NDArray[Any]) -> bytes:
    if array.dtype != BYTES:
        return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
    parts = []
    for element in array.reshape(-1):
        if not isinstance(element, bytes):
            raise WireError(f"Expected bytes in a BYTES tensor, got {type(element).__name__}.")
        parts += [struct.pack("<I", len(element)), element]
    return b"".join(parts)


def _json_values(array: NDArray[Any], name: str) -> list[Any]:
    values: list[Any] = array.reshape(-1).tolist()
    if array.dtype == BYTES:
        try:
            return [element.decode() for element in values]
        except UnicodeDecodeError:
            raise WireError(f"Tensor {name!r} is not text: ask for it in binary.") from None
    if array.dtype.kind == "f" and not all(map(math.isfinite, values)):
        raise WireError(f"Tensor {name!r} holds NaN or infinity: ask for it in binary.")
    return values


def _dump(document: Mapping[str, Any]) -> bytes:
    return _ENCODER.encode(document).encode()


def _join(document: Mapping[str, Any], chunks: list[bytes]) -> tuple[bytes, int]:
    """Head and chunks; blanks after the head let the reader map the first tensor in place."""
    head = _dump(document)
    head += b" " * (-len(head) % _ALIGNMENT)
    return b"".join([head, *chunks]), len(head)
