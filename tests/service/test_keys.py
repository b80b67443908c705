"""Keys: only a hash is kept; expiry, revocation and scopes hold."""

from __future__ import annotations

import json
import stat
import threading
from pathlib import Path

import pytest

from reticent.errors import AuthenticationError, ConfigError
from reticent.service.keys import METRICS_SCOPE, KeyStore


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def bearer(key: str) -> bytes:
    return f"Bearer {key}".encode()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def test_the_file_holds_no_secret_and_is_private(path: Path) -> None:
    key = KeyStore(path).create("har")
    secret = key.split(".")[1]
    assert secret not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert secret not in repr(key)
    assert secret not in f"{[key]}"


def test_a_key_authenticates_and_its_neighbours_do_not(path: Path) -> None:
    store = KeyStore(path)
    key = store.create("har")
    assert store.authenticate(bearer(key)).allows("har")
    last = "A" if key[-1] != "A" else "B"
    for wrong in (
        key[:-1] + last,
        key[:-1],
        key + "A",
        key.replace("rk_", "rk_0"),
        "rk_." + key,
        "",
    ):
        with pytest.raises(AuthenticationError):
            store.authenticate(bearer(wrong))
    for header in (None, b"", b"Basic " + key.encode(), b"Bearer " + key.encode() + b"\xff"):
        with pytest.raises(AuthenticationError):
            store.authenticate(header)


def test_a_secret_fits_its_own_id_only(path: Path) -> None:
    store = KeyStore(path)
    first, second = store.create("har"), store.create("har")
    mixed = first.split(".")[0] + "." + second.split(".")[1]
    with pytest.raises(AuthenticationError):
        store.authenticate(bearer(mixed))


def test_unknown_expired_and_revoked_sound_the_same(path: Path) -> None:
    clock = Clock()
    store = KeyStore(path, clock=clock)
    expiring, revoked = store.create("har", lifetime=10.0), store.create("har")
    store.authenticate(bearer(expiring))
    store.revoke(revoked[3:19])
    clock.now += 10.0
    messages = set()
    for key in (expiring, revoked, "rk_" + "0" * 16 + "." + "A" * 43):
        with pytest.raises(AuthenticationError) as caught:
            store.authenticate(bearer(key))
        messages.add(str(caught.value))
    assert len(messages) == 1


def test_scopes_name_models_and_metrics_apart(path: Path) -> None:
    store = KeyStore(path)
    every, one, metrics = (
        store.authenticate(bearer(store.create(scope))) for scope in ("*", "har", METRICS_SCOPE)
    )
    assert every.allows("har")
    assert not every.allows(METRICS_SCOPE)
    assert one.allows("har")
    assert not one.allows("digits")
    assert metrics.allows(METRICS_SCOPE)
    assert not metrics.allows("har")
    with pytest.raises(ConfigError):
        store.create()


def test_a_running_store_sees_a_revocation_by_another_process(path: Path) -> None:
    monotonic = Clock()
    running = KeyStore(path, monotonic=monotonic, reload_seconds=1.0)
    other = KeyStore(path)
    key = other.create("har")
    monotonic.now += 1.0
    running.authenticate(bearer(key))
    other.revoke(key[3:19])
    running.authenticate(bearer(key))  # within the second that the docstring allows
    monotonic.now += 1.0
    with pytest.raises(AuthenticationError):
        running.authenticate(bearer(key))


def test_writers_at_the_same_time_lose_nothing(path: Path) -> None:
    made: list[str] = []

    def write() -> None:
        store = KeyStore(path)
        made.extend(store.create("har") for _ in range(10))

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {record.id for record in KeyStore(path).records()} == {key[3:19] for key in made}
    assert len(made) == 40


def test_files_that_cannot_be_trusted_are_refused(path: Path) -> None:
    store = KeyStore(path, reload_seconds=0.0)
    key = store.create("har")
    good = path.read_text()
    for text in ("{", "[]", '{"schema": 2, "keys": []}', '{"schema": 1, "keys": [{}]}'):
        path.write_text(text)
        for _ in range(2):  # the first refusal must not count as a good look
            with pytest.raises(ConfigError):
                store.authenticate(bearer(key))
    path.write_text(good)
    store.authenticate(bearer(key))
    path.chmod(0o666)
    with pytest.raises(ConfigError, match="chmod 600"):
        KeyStore(path)


def test_deleting_the_file_locks_everyone_out(path: Path) -> None:
    store = KeyStore(path, reload_seconds=0.0)
    key = store.create("har")
    path.unlink()
    with pytest.raises(AuthenticationError):
        store.authenticate(bearer(key))


def test_revoking_an_unknown_key_changes_nothing(path: Path) -> None:
    store = KeyStore(path)
    store.create("har")
    before = path.read_text()
    with pytest.raises(ConfigError, match="nobody"):
        store.revoke("nobody")
    assert path.read_text() == before
    assert json.loads(before)["schema"] == 1
