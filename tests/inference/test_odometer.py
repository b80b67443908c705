"""An odometer never forgets, never overspends, and is charged before anything leaves."""

from __future__ import annotations

import math
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from split_specimens import honest, write_client

from reticent.errors import BudgetExhaustedError, ConfigError
from reticent.inference.split.odometer import Odometer, Reading


def test_charges_add_up_per_user(tmp_path: Path) -> None:
    odometer = Odometer(tmp_path / "o.db")
    assert odometer.read("ann") == Reading(requests=0, bits=0.0, nats=0.0)
    odometer.charge("ann", requests=3, bits=2.0, nats=0.5)
    after = odometer.charge("ann", requests=1, bits=2.0, nats=0.5)
    assert after == odometer.read("ann") == Reading(requests=4, bits=8.0, nats=2.0)
    assert odometer.read("bob").requests == 0


@pytest.mark.parametrize("limit", ["max_bits", "max_nats"])
def test_the_last_charge_that_fits_is_taken_and_the_next_refused_whole(
    tmp_path: Path, limit: str
) -> None:
    odometer = Odometer(tmp_path / "o.db", **{limit: 10.0})  # type: ignore[arg-type]
    odometer.charge("ann", requests=10, bits=1.0, nats=1.0)
    with pytest.raises(BudgetExhaustedError, match=r"'ann' stands at 10 .*Nothing was sent"):
        odometer.charge("ann", requests=1, bits=1.0, nats=1.0)
    assert odometer.read("ann").requests == 10
    odometer.charge("bob", requests=10, bits=1.0, nats=1.0)


def test_infinite_charges_are_kept_as_such_and_refused_by_any_limit(tmp_path: Path) -> None:
    path = tmp_path / "o.db"
    Odometer(path).charge("ann", requests=2, bits=math.inf, nats=0.0)
    assert Odometer(path).read("ann") == Reading(requests=2, bits=math.inf, nats=0.0)
    limited = Odometer(path, max_bits=1e300)
    for user in ("ann", "bob"):
        with pytest.raises(BudgetExhaustedError):
            limited.charge(user, requests=1, bits=math.inf, nats=0.0)


@pytest.mark.parametrize(
    ("requests", "bits", "nats"),
    [(0, 1.0, 1.0), (-5, 1.0, 1.0), (1, -1.0, 0.0), (1, 0.0, -1.0), (1, math.nan, 0.0)],
)
def test_nothing_can_be_taken_back(tmp_path: Path, requests: int, bits: float, nats: float) -> None:
    odometer = Odometer(tmp_path / "o.db", max_bits=10)
    odometer.charge("ann", requests=10, bits=1.0, nats=0.0)
    with pytest.raises(ConfigError):
        odometer.charge("ann", requests=requests, bits=bits, nats=nats)
    assert odometer.read("ann").bits == 10


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 50), st.floats(0, 20), st.floats(0, 20)), max_size=12))
def test_spent_never_exceeds_the_limit_and_equals_what_was_accepted(
    charges: list[tuple[int, float, float]],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        odometer = Odometer(Path(folder) / "o.db", max_bits=100, max_nats=50)
        accepted = 0
        for requests, bits, nats in charges:
            try:
                odometer.charge("u", requests=requests, bits=bits, nats=nats)
            except BudgetExhaustedError:
                continue
            accepted += requests
        spent = odometer.read("u")
        odometer.close()
    assert spent.bits <= 100
    assert spent.nats <= 50
    assert spent.requests == accepted


@pytest.mark.parametrize("limit", [-1.0, math.nan])
def test_a_limit_below_zero_is_refused(tmp_path: Path, limit: float) -> None:
    with pytest.raises(ConfigError, match="max_nats"):
        Odometer(tmp_path / "o.db", max_nats=limit)


def test_a_file_that_is_no_odometer_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a database, and longer than the header of one. " * 20)
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=r"notes\.txt"):
        Odometer(path)
    assert path.read_bytes() == before
    other = tmp_path / "other.db"
    with sqlite3.connect(other) as db:
        db.execute("CREATE TABLE spent (who TEXT)")
    with pytest.raises(ConfigError, match=r"other\.db"):
        Odometer(other)


def test_threads_of_one_process_share_an_odometer(tmp_path: Path) -> None:
    odometer, refused = Odometer(tmp_path / "o.db", max_bits=100), []

    def spend() -> None:
        for _ in range(25):
            try:
                odometer.charge("ann", requests=1, bits=1.0, nats=0.0)
            except BudgetExhaustedError:
                refused.append(1)

    threads = [threading.Thread(target=spend) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert odometer.read("ann").bits == 100
    assert len(refused) == 8 * 25 - 100


SPEND = """
import sys
from pathlib import Path
from reticent.errors import BudgetExhaustedError
from reticent.inference.split.odometer import Odometer
odometer = Odometer(Path(sys.argv[1]), max_bits=60)
print("ready", flush=True)
sys.stdin.readline()
accepted = 0
for _ in range(40):
    try:
        odometer.charge("ann", requests=1, bits=1.0, nats=0.0)
        accepted += 1
    except BudgetExhaustedError:
        pass
print(accepted)
"""


def test_four_processes_at_once_never_overspend(tmp_path: Path) -> None:
    path = tmp_path / "o.db"
    command = [sys.executable, "-c", SPEND, str(path)]
    workers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    accepted = [int(worker.communicate(timeout=100)[0]) for worker in workers]
    assert sum(accepted) == 60
    assert Odometer(path).read("ann").bits == 60


KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from reticent.inference.split.client import SplitClient
from reticent.inference.split.odometer import Odometer
from reticent.inference.split.release import Code
# The next step after the charge: the process dies before anything can be sent.
Code.apply = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
client = SplitClient.load(Path(sys.argv[1]), odometer=Odometer(Path(sys.argv[2])))
client.encode(np.zeros((5, 4), np.float32))
"""


def test_a_client_killed_between_charge_and_sending_has_spent(tmp_path: Path) -> None:
    folder = write_client(tmp_path / "client", honest())
    path = tmp_path / "o.db"
    for times in (1, 2):
        ran = subprocess.run(
            [sys.executable, "-c", KILLED, str(folder), str(path)],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            timeout=100,
        )
        assert ran.returncode == -signal.SIGKILL
        spent = Odometer(path).read("default")
        assert spent.requests == 5 * times
        assert spent.bits == pytest.approx(5 * times * math.log2(3))
