"""Serving: the app on uvicorn, with TLS, a ready line, and an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

import uvicorn

from reticent.errors import ConfigError, ReticentError
from reticent.service.app import Service, create_app
from reticent.service.certificate import TlsFiles
from reticent.service.keys import KeyStore
from reticent.service.limits import Limits
from reticent.service.log import ServiceLog
from reticent.service.model import ServedModel
from reticent.service.protocol import bounded_protocol

_BACKLOG = 1024


@dataclass(frozen=True, kw_only=True)
class Running:
    """A server that is ready; `certificate` is what clients verify it with, where self-signed."""

    url: str
    port: int
    pid: int
    models: tuple[str, ...]
    tls: str
    certificate: str | None = None


@dataclass(frozen=True, kw_only=True)
class Binding:
    """Where to listen, and for whom.

    Port 0 takes a free one. Anonymous service and plain HTTP are for the loopback address, except
    that `allow_plaintext` permits plain HTTP behind a proxy that terminates TLS.
    """

    host: str = "127.0.0.1"
    port: int = 8400
    tls: TlsFiles | None = None
    keys: KeyStore | None = None
    allow_anonymous: bool = False
    allow_plaintext: bool = False
    stop_seconds: float = 30.0

    def __post_init__(self) -> None:
        if _is_loopback(self.host):
            return
        if self.keys is None:
            raise ConfigError(
                f"Expected API keys to listen on host={self.host!r}: without keys only the "
                "loopback address is served. Make a key, or bind to 127.0.0.1."
            )
        if self.tls is None and not self.allow_plaintext:
            raise ConfigError(
                f"Expected TLS files to listen on host={self.host!r}: keys and features would "
                "travel in the clear. Give a certificate, or allow_plaintext behind a TLS proxy."
            )


def serve(
    models: Mapping[str, ServedModel],
    binding: Binding,
    *,
    limits: Limits | None = None,
    announce: TextIO | None = None,
    log: TextIO | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT; requests in flight are finished first.

    When ready, writes one JSON line (`Running`) to `announce` (default: standard output). Raises
    `ConfigError` before listening, and `BundleError` when a model fails its warm-up.
    """
    out = announce or sys.stdout
    prepared = _Prepared(models, binding, limits, log or sys.stderr)

    def print_line(running: Running) -> None:
        print(json.dumps({"event": "ready", **asdict(running)}), file=out, flush=True)

    with _signals_that_only_stop():
        prepared.run(print_line)


@contextlib.contextmanager
def running(
    models: Mapping[str, ServedModel],
    binding: Binding,
    *,
    limits: Limits | None = None,
    log: TextIO | None = None,
) -> Iterator[Running]:
    """The service in a thread of this process, ready when the block starts; for tests, demos."""
    prepared = _Prepared(models, binding, limits, log or sys.stderr)
    outcome: queue.SimpleQueue[Running | BaseException] = queue.SimpleQueue()

    def target() -> None:
        try:
            prepared.run(outcome.put)
        except BaseException as error:
            outcome.put(error)

    thread = threading.Thread(target=target, name="reticent-service")
    thread.start()
    try:
        first = outcome.get()
        if isinstance(first, BaseException):
            raise first
        yield first
    finally:
        prepared.stop()
        thread.join()


@contextlib.contextmanager
def running_command(
    command: Sequence[str],
    *,
    seconds: float = 60.0,
    stderr: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[tuple[Running, subprocess.Popen[str]]]:
    """A server as a process of its own: `command` must end up in `serve`. SIGTERM at the end.

    Raises `ConfigError` when it ends, or says nothing for `seconds`, instead of being ready.
    """
    with contextlib.ExitStack() as stack:
        log = None if stderr is None else stack.enter_context(stderr.open("w"))
        process = subprocess.Popen(  # noqa: S603  the caller's own command, no shell
            command,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=None if environment is None else {**os.environ, **environment},
        )
        stack.enter_context(process)
        stack.callback(_end, process)
        watchdog = threading.Timer(seconds, process.kill)
        watchdog.start()
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
        finally:
            watchdog.cancel()
        if not line:
            raise ConfigError(
                f"The server ended before it was ready (exit code {process.wait()}). See its log."
            )
        record = json.loads(line)
        record.pop("event")
        yield Running(**{**record, "models": tuple(record["models"])}), process


class _Prepared:
    """A bound socket and a configured server: what fails early has failed by now."""

    def __init__(
        self,
        models: Mapping[str, ServedModel],
        binding: Binding,
        limits: Limits | None,
        log: TextIO,
    ) -> None:
        limits = limits or Limits()
        service_log = ServiceLog(log)
        app = create_app(
            models,
            keys=binding.keys,
            limits=limits,
            allow_anonymous=binding.allow_anonymous,
            log=service_log,
        )
        self._service: Service = app.state.service
        self._binding = binding
        config = uvicorn.Config(
            app,
            http=bounded_protocol(limits),
            ws="none",
            lifespan="on",
            # Addresses and paths of requests stay out of the log.
            access_log=False,
            log_config=None,
            proxy_headers=False,
            server_header=False,
            limit_concurrency=limits.connections,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=max(1, round(binding.stop_seconds)),
            ssl_certfile=None if binding.tls is None else str(binding.tls.certificate),
            ssl_keyfile=None if binding.tls is None else str(binding.tls.key),
        )
        _load(config)
        service_log.adopt_foreign()
        self._loop_factory = config.get_loop_factory()
        self._server = uvicorn.Server(config)
        self._socket = _bind(binding.host, binding.port)

    def run(self, announce: Callable[[Running], None]) -> None:
        with self._socket, asyncio.Runner(loop_factory=self._loop_factory) as runner:
            runner.run(self._main(announce))

    def stop(self) -> None:
        self._server.should_exit = True

    async def _main(self, announce: Callable[[Running], None]) -> None:
        serving = asyncio.create_task(self._server.serve(sockets=[self._socket]))
        warming = asyncio.create_task(self._service.wait_warm())
        await asyncio.wait({serving, warming}, return_when=asyncio.FIRST_COMPLETED)
        failure: ReticentError | None = None
        if not warming.done():
            warming.cancel()
        elif isinstance(error := warming.exception(), ReticentError):
            failure = error
            self.stop()
        else:
            announce(self._describe())
        await serving
        if failure is not None:
            raise failure

    def _describe(self) -> Running:
        tls = self._binding.tls
        port: int = self._socket.getsockname()[1]
        host = f"[{self._binding.host}]" if ":" in self._binding.host else self._binding.host
        return Running(
            url=f"{'http' if tls is None else 'https'}://{host}:{port}",
            port=port,
            pid=os.getpid(),
            models=tuple(sorted(self._service.models)),
            tls="none" if tls is None else "self-signed" if tls.self_signed else "certificate",
            certificate=str(tls.certificate) if tls is not None and tls.self_signed else None,
        )


def _load(config: uvicorn.Config) -> None:
    try:
        config.load()
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise ConfigError(
            f"The TLS certificate or key can't be used ({type(error).__name__}). "
            "Expected a PEM certificate chain and its unencrypted key."
        ) from error


def _bind(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigError(f"Expected an address of this machine, got {host=}: {error}.") from error
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(_BACKLOG)  # so that connections wait, not fail, until the loop accepts
    except OSError as error:
        bound.close()
        raise ConfigError(
            f"Can't listen on {host=}, {port=}: {error.strerror}. Choose another port, or 0."
        ) from error
    return bound


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@contextlib.contextmanager
def _signals_that_only_stop() -> Iterator[None]:
    """uvicorn raises the signal that stopped it once more when done; let that be harmless."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ignore(_signal: int, _frame: Any) -> None:
        return None

    previous = {number: signal.signal(number, ignore) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout=40)
        except subprocess.TimeoutExpired:
            process.kill()
