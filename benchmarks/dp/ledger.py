"""The ledger: durable reservations a second, beside bare SQLite with the same durability.

Wall time, because the disk is what a durable write waits for; CPU time stands beside it. The two
take turns on the same folder, so both meet the same disk and the same neighbours.

    python benchmarks/dp/ledger.py [--quick]
"""

from __future__ import annotations

import json
import os
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from rows import Row, row

from reticent.privacy.ledger import Cap, Ledger, gaussian, record_digests, verify

GOAL = 200  # durable reservations a second


def rows(*, quick: bool) -> Iterable[Row]:
    """Reservations, whole charges, verification."""
    times = 300 if quick else 1500
    with tempfile.TemporaryDirectory(dir=os.environ.get("RETICENT_BENCH_DISK")) as folder:
        yield from _rows(Path(folder), times)


def _rows(folder: Path, times: int) -> Iterator[Row]:
    ledger = Ledger.create(folder / "budget.db")
    data = ledger.grant(
        "people", record_digests({"x": range(1000)}), cap=Cap(epsilon=3, delta=1e-6)
    )
    cost = gaussian(noise_multiplier=1e4)

    def reserve(number: int) -> None:
        ledger.reserve(data.id, cost, key=f"r{number}")

    def charge(number: int) -> None:
        with ledger.spending(data.id, cost, key=f"c{number}"):
            pass

    bare = _bare(folder)
    took = _in_turns([reserve, bare], times)
    reserve_wall, reserve_cpu = took[0]
    bare_wall, bare_cpu = took[1]
    yield row(
        "ledger",
        "durable reservations a second",
        times / reserve_wall,
        times / bare_wall,
        "sqlite3, one row a transaction",
        higher=True,
        unit="1/s wall",
        n=times,
        goal=GOAL,
    )
    yield row(
        "ledger",
        "CPU a reservation",
        1e3 * reserve_cpu / times,
        1e3 * bare_cpu / times,
        "sqlite3, one row a transaction",
        unit="ms CPU",
        n=times,
    )
    wall, cpu = _in_turns([charge], times // 3)[0]
    yield row(
        "ledger",
        "whole charges a second (reserve, start, commit)",
        times // 3 / wall,
        None,
        "",
        unit="1/s wall",
        n=times // 3,
        cpu_ms=round(1e3 * cpu / (times // 3), 3),
    )
    start = time.process_time()
    found = verify(ledger.store, ledger.key.public)
    yield row(
        "ledger",
        "entries verified a CPU second",
        found.entries / (time.process_time() - start),
        None,
        "",
        unit="1/s CPU",
        n=found.entries,
    )
    ledger.close()


def _bare(folder: Path) -> Callable[[int], None]:
    connection = sqlite3.connect(folder / "bare.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE spent (name TEXT PRIMARY KEY, epsilon REAL)")

    def insert(number: int) -> None:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO spent VALUES (?, ?)", (f"r{number}", 0.1))
        connection.execute("COMMIT")

    return insert


def _in_turns(actions: list[Callable[[int], None]], times: int) -> list[tuple[float, float]]:
    """Wall and CPU seconds of each action, run `times` times, by turns of fifty."""
    totals = [[0.0, 0.0] for _ in actions]
    for first in range(0, times, 50):
        for total, action in zip(totals, actions, strict=True):
            wall, cpu = time.perf_counter(), time.process_time()
            for number in range(first, min(first + 50, times)):
                action(number)
            total[0] += time.perf_counter() - wall
            total[1] += time.process_time() - cpu
    return [(wall, cpu) for wall, cpu in totals]


if __name__ == "__main__":
    for found in rows(quick="--quick" in sys.argv):
        print(json.dumps(found), flush=True)
