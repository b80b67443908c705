"""SYNTHETIC turbines: machines that wear out, each with its own build and its own loads."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from reticent.data.task import Kind, Task
from reticent.data.windows import chunked_windows, chunks_from_end
from reticent.errors import ConfigError
from reticent.random import seeded

SENSORS = 12
WINDOW, CHUNK, HOP = 20, 30, 2
CAP = 125
LOADS = ("low", "middle", "high")


def turbines(*, seed: int = 0, public: str = "remaining life", machines: int = 60) -> Task:
    """SYNTHETIC sensor windows (n, 12, 20) of machines run until they fail.

    Public: the cycles left after the window, at most 125 (regression). Private: the machine, and
    the operating load of the chunk, which tells how the customer drives it. Sensor j of machine m
    at cycle t reads build_mj + a_j load + b_j wear(t) + noise, where wear grows exponentially
    towards failure after 140 to 320 cycles. Recordings are chunks of 30 cycles with one load; up
    to six overlapping windows lie inside each, so that no cycle is in two recordings.
    """
    if public != "remaining life":
        raise ConfigError(f"Expected public='remaining life', got public={public!r}.")
    if machines < 2:
        raise ConfigError(f"Expected machines >= 2, got machines={machines}.")
    rng = seeded(seed, 30)
    build = 0.5 * rng.standard_normal((machines, SENSORS))
    load_effect = rng.choice([-1.0, 1.0], SENSORS) * rng.uniform(0.15, 0.5, SENSORS)
    wear_effect = rng.choice([-1.0, 1.0], SENSORS) * rng.uniform(1.0, 3.0, SENSORS)
    lives = rng.integers(140, 321, size=machines)
    windows, left, load, machine = [], [], [], []
    recording: list[NDArray[np.int64]] = []
    for index, life in enumerate(lives):
        chunks = chunks_from_end(int(life), CHUNK, WINDOW)
        loads = rng.integers(len(LOADS), size=len(chunks))
        series = build[index] + _wear(int(life), rng)[:, None] * wear_effect
        for (start, stop), level in zip(chunks, loads, strict=True):
            series[start:stop] += (level - 1) * load_effect
        series += 0.35 * rng.standard_normal(series.shape)
        cut, ends, chunk = chunked_windows(series, chunks, WINDOW, HOP)
        windows.append(cut)
        left.append(np.minimum(life - ends, CAP))
        load.append(loads[chunk])
        machine.append(np.full(len(cut), index))
        recording.append(chunk + (int(recording[-1][-1]) + 1 if recording else 0))
    return Task(
        name="turbines",
        x=np.concatenate(windows).astype(np.float32),
        public=np.concatenate(left).astype(np.float32),
        private={"machine": np.concatenate(machine), "load": np.concatenate(load)},
        users=np.concatenate(machine),
        recordings=np.concatenate(recording),
        kind=Kind.REGRESSION,
        synthetic=True,
        source=f"SYNTHETIC: reticent.data.generators.turbines, seed {seed}",
        attribute_names={
            "machine": tuple(f"machine {index}" for index in range(machines)),
            "load": LOADS,
        },
    )


def _wear(life: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Wear at cycles 1..life (life,): about 0 when new, 1 at failure, faster and faster."""
    fraction = np.arange(1, life + 1) / life
    speed = rng.uniform(3.5, 5.5)
    start = rng.uniform(0.0, 0.1)
    return np.asarray(start + (1 - start) * np.expm1(speed * fraction) / np.expm1(speed))
