"""The service in a process of its own, over real sockets with TLS."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import signal
import socket
import ssl
import stat
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import service_fakes
from service_fakes import DenseHalf, TableHalf, fake_models

from reticent.errors import AuthenticationError, BundleError, ConfigError
from reticent.inference.channel import Tensors
from reticent.service.certificate import TlsFiles, make_self_signed
from reticent.service.client import Client, RequestRefusedError, ServiceError
from reticent.service.keys import KeyStore
from reticent.service.model import ServedModel
from reticent.service.serve import Binding, Running, running, running_command
from reticent.service.wire import encode_request

CODE = {"code": np.array([3, 1], dtype=np.uint8)}
SECONDS = 0.7  # read_seconds of the server under test


class Site:
    """A server process with its keys, certificate and log."""

    def __init__(self, folder: Path, ready: Running, key: str, tls: TlsFiles) -> None:
        self.folder, self.ready, self.key, self.tls = folder, ready, key, tls

    def client(self, **options: Any) -> Client:
        given = {"api_key": self.key, "verify": self.tls.certificate, **options}
        return Client(self.ready.url, **given)

    def connect(self) -> ssl.SSLSocket:
        context = ssl.create_default_context(cafile=self.tls.certificate)
        plain = socket.create_connection(("127.0.0.1", self.ready.port), timeout=20)
        return context.wrap_socket(plain, server_hostname="localhost")

    def head(self, *, length: int, extra: bytes = b"") -> bytes:
        _, head_length = encode_request(CODE)
        return (
            b"POST /v2/models/table/infer HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %b\r\n"
            b"inference-header-content-length: %d\r\ncontent-length: %d\r\n%b\r\n"
            % (self.key.encode(), head_length, length, extra)
        )

    def assert_serving(self) -> None:
        with self.client() as client:
            scores = client.infer("table", CODE)["scores"]
        np.testing.assert_array_equal(scores, TableHalf().table[[3, 1]])

    @property
    def log(self) -> str:
        return (self.folder / "stderr").read_text()


@contextlib.contextmanager
def site_in(folder: Path, **limits: Any) -> Iterator[tuple[Site, Any]]:
    tls = make_self_signed(folder / "tls")
    key = KeyStore(folder / "keys.json").create("*")
    files = folder / "client"
    files.mkdir()
    (files / "encoder.onnx").write_bytes(b"weights" * 1000)
    command = [
        sys.executable,
        service_fakes.__file__,
        *("--keys", str(folder / "keys.json"), "--tls", str(folder / "tls")),
        *("--client-files", str(files), "--limits", json.dumps(limits)),
    ]
    environment = {"OMP_NUM_THREADS": "1"}
    with running_command(command, stderr=folder / "stderr", environment=environment) as (
        ready,
        process,
    ):
        yield Site(folder, ready, key, tls), process


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    with site_in(folder, read_seconds=SECONDS, body_bytes=300_000, queue=2) as (made, _):
        yield made


def test_the_ready_line_says_where_and_how(site: Site) -> None:
    assert site.ready.url == f"https://127.0.0.1:{site.ready.port}"
    assert site.ready.tls == "self-signed"
    assert "table" in site.ready.models
    assert stat.S_IMODE(site.tls.key.stat().st_mode) == 0o600


def test_our_client_over_tls(site: Site, tmp_path: Path) -> None:
    with site.client() as client:
        assert client.live()
        assert client.ready()
        assert client.ready("table")
        assert not client.ready("none")
        x = np.random.default_rng(0).normal(size=(5, 64)).astype(np.float32)
        logits = client.infer("dense", {"x": x})["logits"]
        np.testing.assert_allclose(logits, x @ DenseHalf().weight, rtol=1e-6)
        listing = client.fetch_client("table", tmp_path / "client", expected_digest=None)
        assert (tmp_path / "client" / "encoder.onnx").read_bytes() == b"weights" * 1000
        assert listing.digest == client.client_manifest("table")["digest"]


def test_a_server_with_another_certificate_is_not_talked_to(site: Site, tmp_path: Path) -> None:
    other = make_self_signed(tmp_path)
    for verify in (True, other.certificate):
        with site.client(verify=verify) as client, pytest.raises(ServiceError, match="CERTIFICATE"):
            client.infer("table", CODE)


def test_plain_http_to_the_tls_port_gets_nothing(site: Site) -> None:
    with socket.create_connection(("127.0.0.1", site.ready.port), timeout=20) as plain:
        plain.sendall(b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            assert b"live" not in plain.recv(1000)
    site.assert_serving()


def test_a_wrong_key_is_refused_and_a_revoked_one_soon(site: Site) -> None:
    store = KeyStore(site.folder / "keys.json")
    key = store.create("table")
    time.sleep(0.15)
    with site.client(api_key=key) as client:
        client.infer("table", CODE)
        with pytest.raises(AuthenticationError, match="403"):
            client.infer("dense", {"x": np.zeros((1, 64), np.float32)})
        store.revoke(key[3:19])
        time.sleep(0.15)
        with pytest.raises(AuthenticationError, match="401"):
            client.infer("table", CODE)
    with site.client(api_key=None) as client, pytest.raises(AuthenticationError):
        client.infer("table", CODE)


def drip(connection: ssl.SSLSocket, data: bytes, pause: float) -> bytes:
    """Send byte by byte until the server has had enough; what it said then."""
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        for at in range(len(data)):
            connection.sendall(data[at : at + 1])
            time.sleep(pause)
            if at * pause > 10 * SECONDS:
                break
    return receive_all(connection)


def receive_all(connection: ssl.SSLSocket) -> bytes:
    parts = []
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts)


def test_slow_clients_are_cut_off_while_others_are_served(site: Site) -> None:
    body, _ = encode_request(CODE)
    headers = site.head(length=len(body))
    slow = {
        "nothing": (b"", b""),
        "headers": (b"", headers),
        "body": (headers, body),
        "stalled body": (headers + body[:5], b""),
    }
    said: dict[str, bytes] = {}

    def run(name: str, at_once: bytes, dripped: bytes) -> None:
        with site.connect() as connection:
            connection.sendall(at_once)
            said[name] = drip(connection, dripped, 0.05)

    began = time.monotonic()
    threads = [threading.Thread(target=run, args=(name, *plan)) for name, plan in slow.items()]
    for thread in threads:
        thread.start()
    site.assert_serving()
    for thread in threads:
        thread.join(20)
    assert time.monotonic() - began < 10 * SECONDS
    for name in slow:
        assert said[name].startswith(b"HTTP/1.1 408 "), name
        assert b'{"error": ' in said[name]
    site.assert_serving()


def test_a_connection_outlives_the_deadline_if_each_request_is_quick(site: Site) -> None:
    """The deadline is a request's, not a connection's."""
    body, _ = encode_request(CODE)
    with site.connect() as connection:
        for _ in range(3):
            connection.sendall(site.head(length=len(body)))
            time.sleep(0.6 * SECONDS)
            connection.sendall(body)
            reply = http.client.HTTPResponse(connection, method="POST")
            reply.begin()
            assert reply.status == 200
            reply.read()
            time.sleep(0.6 * SECONDS)


def test_a_slow_model_is_not_a_slow_client(site: Site) -> None:
    x = np.full((1, 64), 2 * SECONDS, np.float32)
    with site.client() as client:
        assert client.infer("slow", {"x": x})["logits"].shape == (1, 10)


def test_half_a_request_behind_a_slow_model_gets_no_word_in_first(site: Site) -> None:
    """Replies come in order: the 200 that is due before the 408 for what follows it."""
    body, head_length = encode_request({"x": np.full((1, 64), 1.5 * SECONDS, np.float32)})
    first = (
        b"POST /v2/models/slow/infer HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %b\r\n"
        b"inference-header-content-length: %d\r\ncontent-length: %d\r\n\r\n%b"
        % (site.key.encode(), head_length, len(body), body)
    )
    for half in (site.head(length=50), site.head(length=50)[:40]):
        with site.connect() as connection:
            connection.sendall(first + half)
            said = receive_all(connection)
        assert said.startswith(b"HTTP/1.1 200 "), half
        assert b"HTTP/1.1 408 " in said, half
    site.assert_serving()


def test_headers_without_end_are_cut_off(site: Site) -> None:
    with site.connect() as connection:
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            connection.sendall(b"GET / HTTP/1.1\r\n" + b"x: " + b"a" * 200_000)
        said = receive_all(connection)
    assert said == b"" or said.startswith(b"HTTP/1.1 431 ")
    site.assert_serving()


def test_a_body_stated_too_long_is_refused_at_once(site: Site) -> None:
    with site.connect() as connection:
        connection.sendall(site.head(length=10**12))
        said = receive_all(connection)
    assert said.startswith(b"HTTP/1.1 413 ")
    site.assert_serving()


def test_a_chunked_body_without_end_is_refused(site: Site) -> None:
    head = site.head(length=0).replace(b"content-length: 0", b"transfer-encoding: chunked")
    chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    with site.connect() as connection:
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            connection.sendall(head)
            for _ in range(100):
                connection.sendall(chunk)
        said = receive_all(connection)
    assert said == b"" or said.startswith(b"HTTP/1.1 413 ")
    site.assert_serving()


def test_truncated_requests_and_noise_leave_it_serving(site: Site) -> None:
    body, _ = encode_request(CODE)
    whole = site.head(length=len(body)) + body
    rng = np.random.default_rng(0)
    for cut in (1, 20, 60, len(whole) - len(body), len(whole) - 1):
        with site.connect() as connection:
            connection.sendall(whole[:cut])
    for _ in range(20):
        with site.connect() as connection:
            connection.sendall(rng.bytes(300) + b"\r\n\r\n")
            said = receive_all(connection)
        assert said == b"" or said.startswith(b"HTTP/1.1 4")
    site.assert_serving()


def test_wrong_types_and_values_are_the_clients_fault(site: Site) -> None:
    with site.client() as client:
        for tensors in (
            {"code": np.zeros(2, np.float32)},
            {"code": np.zeros((1, 2), np.uint8)},
            {"code": np.full(1, 255, np.uint8)},
        ):
            with pytest.raises(RequestRefusedError) as caught:
                client.infer("table", tensors)
            assert caught.value.status == 400
    site.assert_serving()


def test_a_burst_beyond_the_queue_is_told_to_come_back(site: Site) -> None:
    """1 running + 2 waiting; more are refused, and the cheap model answers meanwhile."""
    x = np.full((1, 64), 0.5, np.float32)
    outcomes: list[Any] = []

    def call() -> None:
        with site.client(retries=0) as client:
            try:
                client.infer("slow", {"x": x})
                outcomes.append(200)
            except ServiceError as error:
                outcomes.append(error.status)

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    time.sleep(0.2)
    site.assert_serving()
    for thread in threads:
        thread.join(20)
    assert outcomes.count(200) >= 3
    assert outcomes.count(503) >= 1
    assert outcomes.count(200) + outcomes.count(503) == 8
    with site.client(retries=0) as client:
        client.infer("slow", {"x": np.zeros((1, 64), np.float32)})


def test_sigterm_finishes_what_was_begun_and_exits_with_0(tmp_path: Path) -> None:
    with site_in(tmp_path) as (site, process):
        result: list[Any] = []

        def call() -> None:
            with site.client() as client:
                x = np.full((1, 64), 1.0, np.float32)
                result.append(client.infer("slow", {"x": x})["logits"])

        thread = threading.Thread(target=call)
        thread.start()
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        thread.join(20)
        assert process.wait(20) == 0
        np.testing.assert_allclose(result[0][0], DenseHalf().weight.sum(axis=0), rtol=1e-4)
        with pytest.raises(ServiceError), site.client() as client:
            client.live()
    events = [json.loads(line)["event"] for line in site.log.splitlines()]
    assert events == ["start", "ready", "stop"]


def test_the_log_holds_no_input_feature_address_or_key(tmp_path: Path) -> None:
    """Everything that a client can put into a request, and where it comes from."""
    mark = 0.8414709848
    with site_in(tmp_path, read_seconds=SECONDS, body_bytes=300_000) as (site, _):
        ports = []
        with site.client() as client:
            x = np.full((1, 64), mark, np.float32)
            client.infer("dense", {"x": x})
            with pytest.raises(ServiceError):
                client.infer("broken", {"x": x})
            with pytest.raises(RequestRefusedError):
                client.infer("table", {"SECRETNAME": x})
        for sent in (
            b"POST /SECRETPATH HTTP/1.1\r\nhost: SECRETHOST\r\n\r\n",
            b"SECRETNOISE\r\n\r\n",
            site.head(length=10**12),
            site.head(length=10)[:-30],
            b"GET /v2 HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
        ):
            with site.connect() as connection:
                connection.settimeout(1.5)  # some of these are kept alive
                ports.append(connection.getsockname()[1])
                connection.sendall(sent)
                with contextlib.suppress(TimeoutError):
                    receive_all(connection)
        with socket.create_connection(("127.0.0.1", site.ready.port), timeout=20) as plain:
            ports.append(plain.getsockname()[1])
            plain.sendall(b"SECRETPLAIN" * 10)
    log = site.log
    assert '"failed"' in log  # the broken model was logged, so the log was on
    forbidden = [
        site.key.split(".")[1],
        site.key[3:19],
        "SECRET",
        "127.0.0.1",
        "0.84147",
        *map(str, ports),
    ]
    for value in forbidden:
        assert value not in log, value
    for line in log.splitlines():
        assert set(json.loads(line)) <= {
            *("time", "event", "models", "version", "error", "place", "logger", "level"),
        }


def test_running_in_a_thread_on_loopback_without_keys() -> None:
    log = io.StringIO()
    binding = Binding(port=0, allow_anonymous=True)
    with running(fake_models(), binding, log=log) as ready, Client(ready.url) as client:
        assert client.infer("table", CODE)["scores"].shape == (2, 6)
    with pytest.raises(ServiceError), Client(ready.url) as client:
        client.live()
    assert '"stop"' in log.getvalue()


class Misfit(DenseHalf):
    """Its weights are another model's."""

    def answer(self, request: Tensors) -> Tensors:
        return {"logits": request["x"] @ self.weight[:32]}


def test_a_model_that_fails_its_warm_up_stops_the_server() -> None:
    models = {"m": ServedModel(name="m", half=Misfit())}
    binding = Binding(port=0, allow_anonymous=True)
    context = running(models, binding, log=io.StringIO())
    with pytest.raises(BundleError, match="don't belong"), context:
        pytest.fail("It was announced as ready.")


def test_bindings_that_would_expose_people_are_refused(tmp_path: Path) -> None:
    keys = KeyStore(tmp_path / "keys.json")
    tls = make_self_signed(tmp_path / "tls")
    for host in ("0.0.0.0", "192.0.2.1", "::", "example.org"):
        with pytest.raises(ConfigError, match="API keys"):
            Binding(host=host, tls=tls, allow_anonymous=True)
        with pytest.raises(ConfigError, match="in the clear"):
            Binding(host=host, keys=keys)
        Binding(host=host, keys=keys, tls=tls)
        Binding(host=host, keys=keys, allow_plaintext=True)


def test_ports_and_certificates_that_cannot_be_used_say_so(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        context = running(fake_models(), Binding(port=port, allow_anonymous=True))
        with pytest.raises(ConfigError, match=f"port={port}"), context:
            pass
    broken = tmp_path / "broken.pem"
    broken.write_text("no certificate")
    for path in (broken, tmp_path / "missing.pem"):
        tls = TlsFiles(certificate=path, key=path)
        context = running(fake_models(), Binding(port=0, tls=tls, allow_anonymous=True))
        with pytest.raises(ConfigError, match="certificate or key"), context:
            pass


def test_a_command_that_ends_instead_of_serving_is_an_error() -> None:
    context = running_command([sys.executable, "-c", "raise SystemExit(3)"])
    with pytest.raises(ConfigError, match="exit code 3"), context:
        pass
