"""Keys that a server reads from a file: the same engine, the same refusals, a piece at a time."""

from __future__ import annotations

import io
import multiprocessing
import resource
import struct
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest

from reticent.errors import BundleError, DataError
from reticent.inference.ckks.engine import seal_library
from reticent.inference.ckks.envelope import (
    HEADER_BYTES,
    PIECE,
    Envelope,
    Kind,
    checksum_of,
    checksum_of_stream,
    header,
    join,
    split,
)
from reticent.inference.ckks.keys import ClientKeys, load_keys
from reticent.inference.ckks.parameters import uniform
from reticent.inference.ckks.regression import Regression, RegressionClient, RegressionServer

TASK = Regression(features=5, records=200, learning_rate=2.0)


@pytest.fixture(scope="module")
def client() -> RegressionClient:
    return RegressionClient(TASK)


@pytest.fixture(scope="module")
def file(client: RegressionClient, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "keys"
    path.write_bytes(client.public_keys)
    return path


def test_a_server_with_keys_from_a_file_takes_the_same_step(client, file) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 5)) / 2
    messages = list(client.encrypt_records(x, x[:, 0] > 0))
    found = []
    for keys in (file, client.public_keys):
        server = RegressionServer(TASK, keys)
        server.load(messages)
        message = client.refresh(server.step(client.start()))
        found.append(client.weights(server.finish(message)))
    np.testing.assert_allclose(found[0], found[1], atol=1e-3)
    assert np.abs(found[0]).max() > 0.1
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize("size", [0, 7, 8192, 8200, PIECE, PIECE + 8191, 3 * PIECE + 8193])
def test_checksums_of_streams_are_those_of_bytes(size: int) -> None:
    data = np.random.default_rng(size).bytes(size)
    assert checksum_of_stream(io.BytesIO(data)) == checksum_of(data)


def test_files_that_hold_no_keys_are_refused(tmp_path) -> None:
    small = uniform(4096, levels=1, scale_bits=25, outer_bits=40)
    good = ClientKeys(small, plan=bytes(range(16)), steps=(1,)).public
    about = header(good)
    parts = split(memoryview(good)[HEADER_BYTES:], count=3, most=len(good))

    def wrapped(content: bytes, plan: bytes = about.plan, kind: Kind = Kind.KEYS) -> bytes:
        return Envelope(kind=kind, plan=plan, keys=about.keys, content=content).pack()

    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 1
    content = good[HEADER_BYTES:]
    for bad, error, words in [
        (b"", DataError, "over"),
        (good[:-1], DataError, "Send it whole"),
        (good + b"\0", DataError, "Send it whole"),
        (bytes(flipped), DataError, "checksum"),
        (wrapped(content, plan=bytes(16)), BundleError, "for plan"),
        (wrapped(content, kind=Kind.REQUEST), DataError, "of kind KEYS"),
        (wrapped(join(parts[:2])), DataError, "Expected 3 parts, got 2"),
        (wrapped(join(parts) + b"\0"), DataError, "1 bytes more"),
        (wrapped(struct.pack("<Q", 2**63) + content[8:]), DataError, "a part of at most"),
        (wrapped(join([parts[0], parts[1][:-8], parts[2]])), DataError, "evaluation keys"),
        (wrapped(join([b"", b"", b""])), DataError, "evaluation keys"),
    ]:
        path = tmp_path / "keys"
        path.write_bytes(bad)
        for keys in (path, bad):
            with pytest.raises(error, match=words):
                load_keys(small, keys, plan=bytes(range(16)), steps=(1,))
        assert list(tmp_path.iterdir()) == [path]


def _peak(pipe: Connection, file: Path) -> None:
    """Bytes of memory that loading takes at its peak, beyond those before."""
    seal_library()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    load_keys(TASK.parameters, file, plan=TASK.digest, steps=TASK.steps)
    pipe.send(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))


def test_memory_is_the_librarys_own_and_a_piece(file) -> None:
    ours, theirs = multiprocessing.Pipe()
    child = multiprocessing.get_context("spawn").Process(target=_peak, args=(theirs, file))
    child.start()
    child.join()
    # The keys as the library holds them, tables of the ring, a piece of a megabyte.
    assert ours.recv() < 1.35 * file.stat().st_size
