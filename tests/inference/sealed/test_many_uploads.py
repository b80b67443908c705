"""A hundred clients' evaluation keys: disk and memory stay within what the caps say."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import sealed_site
from sealed_specimens import laid_out, publish, records

from reticent.inference.ckks.client import EncryptedClient
from reticent.inference.sealed.client import SealedClient
from reticent.service.client import Client, RequestRefusedError
from reticent.service.keys import KeyStore
from reticent.service.remote import Remote
from reticent.service.serve import running_command

PER_OWNER, LOADED, SPOOLED = 3, 4, 8  # in sets of keys
SINGLE, OWNERS, EACH = 60, 5, 8


def resident(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * int(status.split("VmRSS:")[1].split()[0])


def children(pid: int) -> Iterator[int]:
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in map(int, (task / "children").read_text().split()):
            yield child
            yield from children(child)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_hundred_uploads_fill_neither_disk_nor_memory(tmp_path: Path) -> None:
    publish(tmp_path)
    public = laid_out().plan.for_client()
    size = len(EncryptedClient(public).public_keys)
    spool, store = tmp_path / "spool", KeyStore(tmp_path / "keys.json")
    owners = [store.create("*") for _ in range(OWNERS + 2)]
    caps = {
        "--most-spooled": SPOOLED * size + size // 2,
        "--most-loaded": LOADED * size + size // 2,
        "--most-per-owner": PER_OWNER,
    }
    command = [sys.executable, sealed_site.__file__, str(tmp_path)]
    command += [str(word) for pair in caps.items() for word in pair]
    x = records(2)
    with running_command(
        command, stderr=tmp_path / "log", environment={"OMP_NUM_THREADS": "1"}
    ) as (ready, process):

        def connected(owner: str) -> Client:
            return Client(ready.url, api_key=owner, verify=tmp_path / "tls" / "certificate.pem")

        def upload(owner: str, count: int) -> EncryptedClient:
            with connected(owner) as client:
                for _ in range(count):
                    made = EncryptedClient(public)
                    client.upload_keys("sealed", made.public_keys)
            return made

        def spooled() -> list[int]:
            return [file.stat().st_size for file in spool.iterdir()]

        def memory() -> tuple[int, int]:
            return resident(process.pid), max(map(resident, children(process.pid)))

        patient, single, *several = owners
        first = SealedClient.load(tmp_path / "client")
        with connected(patient) as client:
            asking = Remote(client, "sealed", first)
            want = asking.ask(x).tolist()
            assert want == laid_out().program.run(x.astype(np.float64)).argmax(axis=1).tolist()
            before = memory()

            # However many one owner uploads, another's keys stay.
            last = upload(single, SINGLE)
            assert len(spooled()) == 1 + PER_OWNER
            assert client.infer("sealed", first.encode(x))["answer"].shape == (2,)

            between = memory()

            # Many owners share the whole, side by side; those who are pushed out upload again.
            with ThreadPoolExecutor(OWNERS) as pool:
                for done in [pool.submit(upload, owner, EACH) for owner in several]:
                    done.result()
            assert len(spooled()) <= SPOOLED
            assert sum(spooled()) <= caps["--most-spooled"]
            with pytest.raises(RequestRefusedError, match="409"):
                client.infer("sealed", {"ciphertext": np.array([last.encrypt(x[0])], object)})
            assert asking.ask(x).tolist() == want

            after = memory()
    grown = [now - then for now, then in zip(after, before, strict=True)]
    print("grown by", [f"{each / 1e6:.0f} MB" for each in grown], f"keys of {size / 1e6:.1f} MB")
    # Uploads are streamed past the server. A worker holds its cap, one set of keys more until it
    # drops the oldest, and copies of those that it reads; then no more, whoever uploads.
    assert grown[0] < 4 * size
    assert grown[1] < caps["--most-loaded"] + 6 * size
    assert after[1] - between[1] < 2 * size
