"""The client: what it sends, and what it takes from servers that lie."""

from __future__ import annotations

import hashlib
import json
import zlib
from json import dumps
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from reticent.errors import AuthenticationError, BundleError, ConfigError
from reticent.guarantee import SERVER
from reticent.inference.channel import Tensors
from reticent.service.client import Client, RequestRefusedError, ServiceError
from reticent.service.remote import Remote
from reticent.service.wire import HEADER_LENGTH, Codec, WireError, parse_header_length
from reticent.transcript import Transcript

CODE = {"code": np.array([3, 1], dtype=np.uint8)}
URL = "http://127.0.0.1:1"


def respond(
    status: int,
    content: bytes = b"",
    *,
    json: Any = None,
    headers: dict[str, str] | None = None,
) -> httpx.Response:
    """A response that streams, as a real one does."""
    body = content if json is None else dumps(json).encode()
    return httpx.Response(status, stream=httpx.ByteStream(body), headers=headers)


def client_of(handler: Any, **options: Any) -> Client:
    return Client(URL, transport=httpx.MockTransport(handler), sleep=lambda _: None, **options)


def echo(request: httpx.Request) -> httpx.Response:
    codec = Codec()
    length = parse_header_length(request.headers[HEADER_LENGTH])
    decoded = codec.decode_request(request.read(), length)
    body, length = codec.encode_reply(decoded.tensors, decoded, model="m", version="1")
    return respond(200, body, headers={HEADER_LENGTH: str(length)})


def test_infer_returns_the_reply_and_records_both_ways() -> None:
    transcript = Transcript()
    reply = client_of(echo).infer("m", CODE, transcript=transcript)
    assert reply["code"].tolist() == [3, 1]
    names = [(m.sender, m.name) for m in transcript]
    assert names == [
        ("client", "code"),
        ("client", "http request"),
        ("server", "code"),
        ("server", "http reply"),
    ]
    assert len(transcript.view(SERVER)) == 4


def test_what_was_sent_is_recorded_even_if_no_reply_comes() -> None:
    def refuse(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("no route")

    transcript = Transcript()
    with pytest.raises(ServiceError, match="No reply"):
        client_of(refuse).infer("m", CODE, transcript=transcript)
    assert [m.name for m in transcript] == ["code", "http request"]


def test_a_busy_server_is_asked_again_a_bounded_number_of_times() -> None:
    calls, waits = [], []

    def busy(request: httpx.Request) -> httpx.Response:
        calls.append(request)
        return respond(503, json={"error": "full"}, headers={"retry-after": "86400"})

    client = Client(URL, transport=httpx.MockTransport(busy), retries=2, sleep=waits.append)
    with pytest.raises(ServiceError) as caught:
        client.infer("m", CODE)
    assert caught.value.status == 503
    assert len(calls) == 3
    assert waits == [10.0, 10.0]


@pytest.mark.parametrize("status", [400, 401, 403, 409, 413, 429, 500, 502])
def test_nothing_but_a_busy_server_is_asked_again(status: int) -> None:
    calls = []

    def handler(request: httpx.Request) -> httpx.Response:
        calls.append(request)
        return respond(status, json={"error": "no"}, headers={"retry-after": "1"})

    kinds = {401: AuthenticationError, 403: AuthenticationError, 429: ServiceError}
    expected = kinds.get(status, RequestRefusedError if status < 500 else ServiceError)
    with pytest.raises(expected, match=str(status)):
        client_of(handler).infer("m", CODE)
    assert len(calls) == 1


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"\xff\xfe",
        b'{"error": {"a": 1}}',
        b"[" * 60_000,
        b'{"error": "\\u001b[2J' + b"x" * 9000 + b'"}',
    ],
)
def test_error_texts_are_short_and_printable(content: bytes) -> None:
    with pytest.raises(ServiceError) as caught:
        client_of(lambda _: respond(500, content)).infer("m", CODE)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


def test_replies_that_are_none_or_too_long_are_refused() -> None:
    for content, length in ((b"", None), (b"{}", "2"), (b"{}", "junk"), (b"x" * 2000, None)):
        headers = {} if length is None else {HEADER_LENGTH: length}
        response = respond(200, content, headers=headers)
        with pytest.raises(WireError):
            client_of(lambda _, r=response: r, max_reply_bytes=1000).infer("m", CODE)


def test_compressed_replies_are_not_unpacked() -> None:
    bomb = zlib.compress(b" " * 10_000_000)
    headers = {"content-encoding": "deflate"}
    with pytest.raises(WireError):
        client_of(lambda _: respond(200, bomb, headers=headers)).infer("m", CODE)


def test_redirects_are_not_followed_with_the_key() -> None:
    seen = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request.url.host)
        return respond(307, headers={"location": "http://elsewhere.example/"})

    with pytest.raises(ServiceError, match="307"):
        client_of(handler, api_key="rk_x").infer("m", CODE)
    assert seen == ["127.0.0.1"]


def test_addresses_that_would_leak_are_refused() -> None:
    for url in ("http://example.org", "http://192.0.2.1:8400", "ftp://localhost", "localhost:8400"):
        with pytest.raises(ConfigError):
            Client(url)
    Client("http://example.org", allow_plaintext=True).close()
    with pytest.raises(ConfigError, match="any server"):
        Client("https://example.org", verify=False)
    with pytest.raises(ConfigError, match="PEM"):
        Client("https://example.org", verify="missing.pem")


def offering(files: dict[str, bytes], **change: Any) -> Any:
    """A server of client files; `change` alters the first record of its listing."""
    records = [
        {"name": n, "sha256": hashlib.sha256(c).hexdigest(), "size": len(c)}
        for n, c in sorted(files.items())
    ]
    records[0] |= change

    def handler(request: httpx.Request) -> httpx.Response:
        name = request.url.path.rpartition("/")[2]
        if name == "client":
            return respond(200, json={"files": records})
        return respond(200, files.get(name, b"weights"))

    return handler


def test_fetched_files_are_the_ones_that_the_digest_names(tmp_path: Path) -> None:
    files = {"encoder.onnx": b"weights", "spec.json": b"{}"}
    client = client_of(offering(files))
    transcript = Transcript()
    listing = client.fetch_client("m", tmp_path / "a", expected_digest=None, transcript=transcript)
    assert {p.name: p.read_bytes() for p in (tmp_path / "a").iterdir()} == files
    assert "9 bytes" in transcript.messages[0].describe()
    again = client.fetch_client("m", tmp_path / "a", expected_digest=listing.digest)
    assert again == listing
    with pytest.raises(BundleError, match="another encoder"):
        client.fetch_client("m", tmp_path / "b", expected_digest="0" * 64)
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"sha256": "0" * 64},
        {"size": 3},
        {"size": 8},
        {"name": "../escape"},
        {"name": "/tmp/escape"},
    ],
)
def test_files_that_are_not_what_the_listing_says_are_not_written(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    client = client_of(offering({"encoder.onnx": b"weights", "spec.json": b"{}"}, **change))
    with pytest.raises((BundleError, WireError)):
        client.fetch_client("m", tmp_path / "into", expected_digest=None)
    assert list(tmp_path.iterdir()) == []


class Halving:
    """A client half: encodes x to its rounded double, decodes codes to their half."""

    def encode(self, x: np.ndarray) -> Tensors:
        return {"code": (2 * x[:, 0]).astype(np.uint8)}

    def decode(self, reply: Tensors) -> np.ndarray:
        return reply["code"] / 2


def test_remote_asks_as_in_process_and_states_its_digest() -> None:
    heads = []

    def handler(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return respond(200, json={"parameters": {"reticent.client_digest": "a" * 64}})
        heads.append(json.loads(request.read()[: int(request.headers[HEADER_LENGTH])]))
        return echo(request)

    x = np.array([[3.0], [7.5]], dtype=np.float32)
    remote = Remote(client_of(handler), "m", Halving(), client_digest="a" * 64)
    remote.check()
    assert remote.ask(x).tolist() == [3.0, 7.5]
    assert heads[0]["parameters"]["reticent.client_digest"] == "a" * 16
    with pytest.raises(BundleError, match="Fetch"):
        Remote(client_of(handler), "m", Halving(), client_digest="b" * 64).check()
