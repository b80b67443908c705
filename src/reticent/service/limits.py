"""Limits: how much, how often, how slowly one client may send."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from reticent.errors import ConfigError
from reticent.service.refusal import RefusalError
from reticent.service.wire import WireLimits

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the service accepts.

    `rate` is requests per second and key, `burst` how many may come at once; `failure_rate` and
    `failure_burst` say the same of wrong keys from one address. `read_seconds` is the time for one
    whole request to arrive, `upload_seconds` that for evaluation keys. `threads` and `queue` bound
    the executor: one more request than both together is told to come back.
    """

    body_bytes: int = 16 << 20
    header_bytes: int = 32 << 10
    batch_rows: int = 8192
    read_seconds: float = 20.0
    upload_seconds: float = 300.0
    rate: float = 200.0
    burst: int = 400
    failure_rate: float = 1.0
    failure_burst: int = 20
    threads: int = 1
    queue: int = 64
    connections: int = 512
    wire: WireLimits = field(default_factory=WireLimits)

    def __post_init__(self) -> None:
        for name in (
            "body_bytes", "header_bytes", "batch_rows", "read_seconds", "upload_seconds",
            "rate", "burst", "failure_rate", "failure_burst",
            "threads", "connections",
        ):  # fmt: skip
            if not getattr(self, name) > 0:
                raise ConfigError(f"Expected {name}={getattr(self, name)} > 0.")
        if self.queue < 0:
            raise ConfigError(f"Expected queue={self.queue} >= 0.")


class RateLimiter:
    """One token bucket per key: `rate` tokens a second, at most `burst` saved up.

    Of more than `most` keys the one that was heard of longest ago is forgotten: whoever invents
    names (addresses) can't fill the memory.
    """

    def __init__(
        self,
        *,
        rate: float,
        burst: int,
        most: int = 1 << 16,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most = most
        self._rate = rate
        self._burst = float(burst)
        self._monotonic = monotonic
        self._buckets: dict[str, tuple[float, float]] = {}

    def wait(self, key_id: str) -> float:
        """0 when a token was taken, else the seconds until there is one."""
        now = self._monotonic()
        tokens, then = self._buckets.pop(key_id, (self._burst, now))
        if len(self._buckets) >= self._most:
            del self._buckets[next(iter(self._buckets))]
        tokens = min(self._burst, tokens + (now - then) * self._rate)
        if tokens < 1.0:
            self._buckets[key_id] = (tokens, now)
            return (1.0 - tokens) / self._rate
        self._buckets[key_id] = (tokens - 1.0, now)
        return 0.0


def network_of(host: str) -> str:
    """The address whose failures count together: an IPv4 address, or an IPv6 /64 network."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if address.version == 6:
        mapped = address.ipv4_mapped
        return str(mapped or ipaddress.ip_network((address, 64), strict=False))
    return str(address)


class ClientGoneError(Exception):
    """The client hung up before its request was complete: nobody is left to answer."""


async def read_body(receive: Receive, *, stated: int | None, max_bytes: int) -> bytes:
    """The request's body. Raises `RefusalError` 413 as soon as it is too long.

    `stated` is the Content-Length, when there is one: a body that would be too long is refused
    before a byte of it is read. Raises `ClientGoneError` when the connection ends first.
    """
    if stated is not None and stated > max_bytes:
        raise _too_long(stated, max_bytes)
    chunks: list[bytes] = []
    total = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientGoneError
        chunk = message.get("body", b"")
        total += len(chunk)
        if total > max_bytes:
            raise _too_long(total, max_bytes)
        if not message.get("more_body", False):
            return b"".join([*chunks, chunk]) if chunks else chunk
        chunks.append(chunk)


def _too_long(length: int, max_bytes: int) -> RefusalError:
    # Closing spares us from reading the rest of it.
    return RefusalError(
        413,
        f"Expected a body of at most body_bytes={max_bytes}, got {length} or more. "
        "Send smaller batches.",
        headers={"connection": "close"},
    )
