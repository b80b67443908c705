"""The HTTP connection: uvicorn's, with a deadline for each request and a size for its headers.

uvicorn waits for ever for a client that sends its request byte by byte, and keeps as many headers
as come. The app can't see a request whose headers are incomplete, so the limits stand here; the
body's deadline stands beside them because here it costs nothing when a request comes in one piece.
"""

from __future__ import annotations

import asyncio
import json

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from reticent.service.limits import Limits

_LINGER_SECONDS = 1.0
_UPLOAD = b"/keys"  # how the address of an upload ends


class BoundedProtocol(HttpToolsProtocol):
    """One connection; the subclass that `bounded_protocol` makes states the limits."""

    read_seconds: float
    upload_seconds: float
    header_bytes: int

    _in_headers = True  # of the first request, which has yet to come
    _in_request = True
    _received = 0
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A new connection: its first request must be whole by the deadline."""
        super().connection_made(transport)
        self._arm()

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        self._in_headers = self._in_request = True
        self._received = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The last byte of a request's headers."""
        self._in_headers = False
        if self.url.endswith(_UPLOAD):
            # Keys are tens of megabytes: whoever may not send them is refused before the first.
            self._disarm()
            self._arm(self.upload_seconds)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The last byte of a request."""
        self._in_request = False
        if self._deadline is not None:
            self._disarm()
        super().on_message_complete()

    def data_received(self, data: bytes) -> None:
        """More bytes. Normally they are a whole request, and no timer is set."""
        super().data_received(data)
        if not self._in_request or self.transport.is_closing():
            return
        if self._deadline is None:
            self._arm()
        if self._in_headers:
            self._received += len(data)
            if self._received > self.header_bytes:
                self._refuse(b"431 Request Header Fields Too Large", "The headers are too long.")

    def connection_lost(self, exc: Exception | None) -> None:
        """The client hung up, or we did."""
        self._disarm()
        super().connection_lost(exc)

    def _arm(self, seconds: float | None = None) -> None:
        self._deadline = self.loop.call_later(seconds or self.read_seconds, self._too_slow)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        self._deadline = None
        is_ours = self._in_headers or not self.cycle.response_started
        if self.pipeline or (self._in_headers and self._is_answering()):
            # An earlier request on this connection is still ours to answer: its reply comes
            # first, and until then we are the ones who don't read.
            self._arm()
        elif is_ours:
            self._refuse(b"408 Request Timeout", "The request did not arrive in time.")
        else:
            self._hang_up()

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _refuse(self, status: bytes, message: str) -> None:
        body = json.dumps({"error": message}).encode()
        self.transport.write(
            b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
            b"connection: close\r\n\r\n%b" % (status, len(body), body)
        )
        self._hang_up()

    def _hang_up(self) -> None:
        # Closing TLS waits for the peer's goodbye, half a minute by default: a client that is
        # slow on purpose gets a second to read the reply, then none of our time.
        self.transport.close()
        self.loop.call_later(_LINGER_SECONDS, self.transport.abort)


def bounded_protocol(limits: Limits) -> type[BoundedProtocol]:
    """The protocol class for these limits, as `uvicorn.Config(http=...)` takes it."""

    class Bounded(BoundedProtocol):
        read_seconds = limits.read_seconds
        upload_seconds = limits.upload_seconds
        header_bytes = limits.header_bytes

    return Bounded
