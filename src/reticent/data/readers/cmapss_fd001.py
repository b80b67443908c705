"""C-MAPSS FD001: 100 simulated turbofan engines run to failure (Saxena & Goebel 2008, NASA)."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np

from reticent.data.digest import check_rows, read_verified
from reticent.data.task import Kind, Task
from reticent.data.windows import chunked_windows, chunks_from_end
from reticent.errors import ConfigError

TRAIN_SHA256 = "99d48a32154876616b586d536bdcc1574bfcd87f2ef87f13ea3532b349f357fa"
ROWS, ENGINES = 20_631, 100
# The seven other sensors are constant under FD001's single operating condition.
SENSORS = (2, 3, 4, 7, 8, 9, 11, 12, 13, 14, 15, 17, 20, 21)
WINDOW, HOP, CAP = 30, 5, 125
# A recording is a stretch of this many cycles: engines are known to everybody, and windows of
# one stretch stay on one side.
CHUNK = 60


def cmapss_fd001(folder: Path, *, public: str = "remaining life") -> Task:
    """Windows (n, 14, 30) of 30 cycles. Public: remaining cycles, capped at 125 (regression).

    Private: `engine` (100 classes) and `wear`, the tercile of the engine's life. Users are
    engines; recordings are stretches of 60 cycles, whose windows share no cycle with others'.
    """
    if public != "remaining life":
        raise ConfigError(f"Expected public='remaining life', got public={public!r}.")
    text = gzip.decompress(read_verified(folder / "train_FD001.txt.gz", TRAIN_SHA256)).decode()
    # The header of this copy names five columns too many; the rows are NASA's.
    table = np.asarray([line.split() for line in text.splitlines()[1:]], dtype=np.float64)
    check_rows(len(table), ROWS, "train_FD001.txt.gz")
    windows, life, engine, recording, lives = [], [], [], [], []
    for unit in range(1, ENGINES + 1):
        own = table[table[:, 0] == unit]
        sensors = own[:, [4 + sensor for sensor in SENSORS]]
        chunks = chunks_from_end(len(own), CHUNK, WINDOW)
        cut, stops, owner = chunked_windows(sensors, chunks, WINDOW, HOP)
        windows.append(cut)
        life.append(np.minimum(len(own) - stops, CAP))
        engine.append(np.full(len(cut), unit - 1))
        recording.append(owner + (unit - 1) * 100)
        lives.append(len(own))
    engines = np.concatenate(engine).astype(np.int64)
    terciles = np.searchsorted(np.quantile(lives, [1 / 3, 2 / 3]), lives)
    return Task(
        name="cmapss_fd001",
        x=np.concatenate(windows).astype(np.float32),
        public=np.concatenate(life).astype(np.float32),
        private={"engine": engines, "wear": terciles[engines].astype(np.int64)},
        users=engines,
        recordings=np.concatenate(recording).astype(np.int64),
        kind=Kind.REGRESSION,
        label="remaining life",
        source="NASA C-MAPSS FD001, Saxena and Goebel 2008, public domain",
        attribute_names={"wear": ("short life", "medium life", "long life")},
    )
