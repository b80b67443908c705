"""Clients' evaluation keys on disk: capped, whole or not at all, named by their content."""

from __future__ import annotations

import hashlib

import pytest

from reticent.errors import BundleError, ConfigError, DataError
from reticent.inference.ckks.envelope import Envelope, Kind
from reticent.inference.sealed.spool import KeySpool, TooManyUploadsError

PLAN = bytes(range(16))


def keys(content: bytes, *, plan: bytes = PLAN, kind: Kind = Kind.KEYS) -> bytes:
    digest = hashlib.sha256(content).digest()[:16]
    return Envelope(kind=kind, plan=plan, keys=digest, content=content).pack()


def upload(spool: KeySpool, owner: str, data: bytes, *, chunk: int = 7) -> bytes:
    with spool.incoming(owner) as incoming:
        for at in range(0, len(data), chunk):
            incoming.write(data[at : at + chunk])
        return incoming.finish()


def make(folder, **options):
    return KeySpool(folder, plan=PLAN, largest=1000, **options)


def test_keys_are_found_again_by_their_digest(tmp_path):
    spool = make(tmp_path / "keys")
    data = keys(b"public" * 50)
    name = upload(spool, "a", data)
    assert spool.path(name).read_bytes() == data
    assert upload(spool, "b", data) == name
    assert len(spool) == 1
    spool.drop(name)
    with pytest.raises(BundleError, match="upload them again"):
        spool.path(name)
    assert list((tmp_path / "keys").iterdir()) == []


@pytest.mark.parametrize(
    ("data", "error", "says"),
    [
        (keys(b"x" * 50)[:-1], DataError, "whole"),
        (keys(b"x" * 50) + b"x", DataError, "whole"),
        (keys(b"x" * 50)[:-1] + b"y", DataError, "digest"),
        (keys(b"x" * 2000), DataError, "at most 1000"),
        (keys(b"x" * 50, plan=bytes(16)), BundleError, "client files"),
        (keys(b"x" * 50, kind=Kind.REQUEST), DataError, "kind"),
        (b"RT", DataError, "envelope"),
        (b"z" * 200, DataError, "version"),
    ],
)
def test_what_are_no_keys_leave_nothing_behind(tmp_path, data, error, says):
    spool = make(tmp_path / "keys")
    with pytest.raises(error, match=says):
        upload(spool, "a", data)
    assert list((tmp_path / "keys").iterdir()) == []
    assert spool.spooled_bytes == 0


def test_a_hundred_uploads_stay_within_the_caps(tmp_path):
    spool = make(tmp_path / "keys", most_bytes=1200, most_per_owner=3)
    kept = upload(spool, "quiet", keys(b"q" * 200))
    for number in range(100):
        upload(spool, "loud", keys(b"%03d" % number * 80))
    on_disk = sum(path.stat().st_size for path in (tmp_path / "keys").iterdir())
    assert on_disk == spool.spooled_bytes <= 1200
    # The loud owner's own quota held before anybody else's keys were touched.
    assert spool.path(kept).exists()
    assert len(spool) == 4


def test_the_keys_used_longest_ago_go_first(tmp_path):
    spool = make(tmp_path / "keys", most_bytes=1000, most_per_owner=10)
    first, second, third = (upload(spool, "a", keys(byte * 250)) for byte in (b"1", b"2", b"3"))
    spool.path(first)
    upload(spool, "a", keys(b"4" * 250))
    assert spool.path(first).exists()
    assert spool.path(third).exists()
    with pytest.raises(BundleError):
        spool.path(second)


def test_an_upload_that_stops_or_has_no_room_is_forgotten(tmp_path):
    spool = make(tmp_path / "keys", most_uploads=1)
    with spool.incoming("a") as incoming:
        incoming.write(keys(b"x" * 50)[:60])
        with pytest.raises(TooManyUploadsError), spool.incoming("b"):
            pass
    assert list((tmp_path / "keys").iterdir()) == []
    upload(spool, "b", keys(b"x" * 50))
    assert len(make(tmp_path / "keys")) == 0  # a new spool starts empty
    assert list((tmp_path / "keys").iterdir()) == []
    with pytest.raises(ConfigError, match="room"):
        make(tmp_path / "keys", most_bytes=10)
