"""The client: calls any V2 server over HTTP, and trusts none of what comes back."""

from __future__ import annotations

import ipaddress
import os
import ssl
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from reticent.errors import (
    AuthenticationError,
    BundleError,
    ConfigError,
    InputError,
    ReticentError,
)
from reticent.guarantee import CLIENT, SERVER
from reticent.inference.channel import Tensors
from reticent.service.client_files import ClientListing
from reticent.service.wire import (
    HEADER_LENGTH,
    WireError,
    decode_reply,
    encode_request,
    parse_header_length,
)
from reticent.transcript import Transcript

_MAX_JSON_BYTES = 4 << 20
_MAX_WAIT = 10.0


class ServiceError(ReticentError):
    """The server can't be reached, failed, or has no time; `status` is HTTP's, None: no reply."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class RequestRefusedError(InputError):
    """The server refused the request; `status` is HTTP's."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Client:
    """A connection to one V2 server.

    `verify` is the file of the authority to trust (a self-signed certificate is its own), or True
    for the system's. Plain HTTP is refused except to the loopback address, since features and key
    would travel in the clear. A busy server (503 with Retry-After) is asked again up to `retries`
    times; nothing else is ever sent twice. `transport` replaces the network in tests.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        verify: Path | str | bool = True,
        timeout: float = 30.0,
        retries: int = 2,
        max_reply_bytes: int = 64 << 20,
        transport: httpx.BaseTransport | None = None,
        allow_plaintext: bool = False,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        address = httpx.URL(url)
        if address.scheme not in ("http", "https") or not address.host:
            raise ConfigError(f"Expected an address such as https://host:8400, got {url=}.")
        if address.scheme == "http" and not (allow_plaintext or _is_loopback(address.host)):
            raise ConfigError(
                f"Expected https, got {url=}: features and key would travel in the clear."
            )
        headers = {} if api_key is None else {"authorization": f"Bearer {api_key}"}
        self._http = httpx.Client(
            base_url=address,
            headers=headers,
            timeout=timeout,
            transport=transport,
            verify=_trust(verify),
        )
        self._retries = retries
        self._max_reply_bytes = max_reply_bytes
        self._sleep = sleep

    def metadata(self, model: str | None = None) -> dict[str, Any]:
        """What the server, or one model, says of itself."""
        return self._json("/v2" if model is None else f"/v2/models/{model}")

    def live(self) -> bool:
        """Whether the server runs."""
        return self._is_ok("/v2/health/live")

    def ready(self, model: str | None = None) -> bool:
        """Whether the server, or one model, is warm."""
        return self._is_ok("/v2/health/ready" if model is None else f"/v2/models/{model}/ready")

    def infer(
        self,
        model: str,
        tensors: Tensors,
        *,
        parameters: Mapping[str, Any] | None = None,
        transcript: Transcript | None = None,
    ) -> dict[str, Any]:
        """The server's reply to `tensors`, both in binary, as named arrays.

        Raises `AuthenticationError`, `RequestRefusedError` (the request is at fault),
        `ServiceError` (the server is), or `WireError` when the reply isn't V2. What is sent is
        written to `transcript` before it is sent, the reply when it has come.
        """
        body, head_length = encode_request(tensors, parameters=parameters)
        path = f"/v2/models/{model}/infer"
        if transcript is not None:
            for name, value in tensors.items():
                transcript.record(CLIENT.name, SERVER.name, name, value)
            transcript.record(
                CLIENT.name, SERVER.name, "http request", f"POST {path}: {len(body)} bytes"
            )
        headers = {
            HEADER_LENGTH: str(head_length),
            "content-type": "application/octet-stream",
            "accept-encoding": "identity",
        }
        response, content = self._send("POST", path, content=body, headers=headers)
        reply = decode_reply(content, parse_header_length(response.headers.get(HEADER_LENGTH)))
        if transcript is not None:
            for name, value in reply.tensors.items():
                transcript.record(SERVER.name, CLIENT.name, name, value)
            transcript.record(SERVER.name, CLIENT.name, "http reply", f"200: {len(content)} bytes")
        return reply.tensors

    def upload_keys(self, model: str, keys: bytes, *, transcript: Transcript | None = None) -> str:
        """Send evaluation keys, once, before encrypted records; their name at the server.

        Raises as `infer` does.
        """
        path = f"/v2/models/{model}/keys"
        if transcript is not None:
            transcript.record(
                CLIENT.name, SERVER.name, "evaluation keys", f"POST {path}: {len(keys)} bytes"
            )
        headers = {"content-type": "application/octet-stream", "accept-encoding": "identity"}
        _, content = self._send(
            "POST", path, content=keys, headers=headers, max_bytes=_MAX_JSON_BYTES
        )
        try:
            return str(httpx.Response(200, content=content).json()["keys"])
        except (ValueError, KeyError, TypeError, RecursionError):
            raise WireError(f"Expected the keys' name from {path}.") from None

    def client_manifest(self, model: str) -> dict[str, Any]:
        """The listing of a model's client files, with its digest and guarantees."""
        return self._json(f"/v2/models/{model}/client")

    def fetch_client(
        self,
        model: str,
        into: Path,
        *,
        expected_digest: str | None,
        transcript: Transcript | None = None,
    ) -> ClientListing:
        """Download a model's client files into the folder `into`, and return their listing.

        Raises `BundleError`, with nothing written, when a file isn't what the listing says, or
        the listing isn't what `expected_digest` says. None takes the server's word for which
        encoder this is: audit it before use.
        """
        manifest = self.client_manifest(model)
        listing = ClientListing.from_json(manifest.get("files"))
        if expected_digest is not None and listing.digest != expected_digest:
            raise BundleError(
                f"Expected client files with digest={expected_digest}, got {listing.digest}. "
                "The server offers another encoder: don't use it."
            )
        contents: dict[str, bytes] = {}
        for file in listing.files:
            path = f"/v2/models/{model}/client/{file.name}"
            _, contents[file.name] = self._send("GET", path, max_bytes=file.size)
            file.check(contents[file.name])
        into.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            # Beside it first, then renamed: a crash leaves no half-written encoder behind.
            partial = into / f".{name}.partial"
            partial.write_bytes(content)
            os.replace(partial, into / name)
        if transcript is not None:
            size = sum(file.size for file in listing.files)
            transcript.record(
                SERVER.name,
                CLIENT.name,
                "client files",
                f"{len(listing.files)} files, {size} bytes, digest {listing.digest[:16]}",
            )
        return listing

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _json(self, path: str) -> dict[str, Any]:
        response, content = self._send("GET", path, max_bytes=_MAX_JSON_BYTES)
        try:
            document = httpx.Response(response.status_code, content=content).json()
        except (ValueError, RecursionError):
            document = None
        if type(document) is not dict:
            raise WireError(f"Expected a JSON object from {path}.")
        return document

    def _is_ok(self, path: str) -> bool:
        try:
            self._send("GET", path, retries=0)
        except (ServiceError, RequestRefusedError) as error:
            if error.status is None:
                raise
            return False
        return True

    def _send(
        self,
        method: str,
        path: str,
        *,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        max_bytes: int | None = None,
        retries: int | None = None,
    ) -> tuple[httpx.Response, bytes]:
        left = self._retries if retries is None else retries
        limit = self._max_reply_bytes if max_bytes is None else max_bytes
        while True:
            try:
                with self._http.stream(method, path, content=content, headers=headers) as response:
                    body = _read(response, limit if response.status_code == 200 else 1 << 16)
            except httpx.HTTPError as error:
                raise ServiceError(
                    f"No reply from {self._http.base_url}: {type(error).__name__} ({error})."
                ) from error
            if response.status_code == 200:
                return response, body
            wait = _retry_after(response)
            if response.status_code != 503 or wait is None or left <= 0:
                raise _error(response, body)
            left -= 1
            self._sleep(min(wait, _MAX_WAIT))


def _read(response: httpx.Response, limit: int) -> bytes:
    chunks, total = [], 0
    # Raw: what was agreed is uncompressed, and unpacking a hostile reply could fill the memory.
    for chunk in response.iter_raw():
        total += len(chunk)
        if total > limit:
            raise WireError(f"Expected a reply of at most {limit} bytes, got more.")
        chunks.append(chunk)
    return b"".join(chunks)


def _error(response: httpx.Response, body: bytes) -> ReticentError:
    status = response.status_code
    try:
        said = httpx.Response(status, content=body).json()["error"]
    except (ValueError, KeyError, TypeError, RecursionError):
        said = ""
    # A hostile server could send terminal escapes, or a page of text.
    printable = "".join(c for c in str(said) if c.isprintable())[:300]
    message = f"The server answered {status}: {printable or 'no reason given'}"
    if status in (401, 403):
        return AuthenticationError(message)
    if 400 <= status < 500 and status not in (408, 429):
        return RequestRefusedError(message, status)
    return ServiceError(message, status)


def _retry_after(response: httpx.Response) -> float | None:
    value = response.headers.get("retry-after", "")
    return float(value) if value.isdigit() and len(value) < 6 else None


def _trust(verify: Path | str | bool) -> ssl.SSLContext | bool:
    if verify is True:
        return True
    if verify is False:
        raise ConfigError(
            "verify=False would accept any server. Give the server's certificate file instead."
        )
    try:
        return ssl.create_default_context(cafile=str(verify))
    except OSError as error:
        raise ConfigError(f"Expected a PEM certificate file, got {verify=!s}.") from error


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
