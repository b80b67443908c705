"""SYNTHETIC gait: a phone in the pocket of generated people, with their bodies as ground truth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reticent.data.task import Task
from reticent.errors import ConfigError
from reticent.random import seeded

ACTIVITIES = ("sitting", "standing", "walking", "stairs", "running")
CHANNELS = ("acc x", "acc y", "acc z", "gyro x", "gyro y", "gyro z")
SAMPLES = 64
RATE_HZ = 32.0
WINDOWS_PER_RECORDING = 5
# Per activity: step frequency factor, amplitude (g), share of second and third harmonic.
_MOTION = np.array(
    [
        [0.55, 0.015, 0.3, 0.2],
        [0.60, 0.025, 0.4, 0.3],
        [1.00, 0.24, 0.45, 0.25],
        [0.74, 0.19, 0.80, 0.50],
        [1.38, 0.55, 0.35, 0.20],
    ]
)


@dataclass(frozen=True, kw_only=True)
class People:
    """What the generator knows about its people; every array has one row per person.

    `sex` 0 woman, 1 man; `height` in metres; `frequency` of walking steps in Hz; `amplitude` a
    factor; `timbre` (people, 3) of the harmonics; `phase` (people, 6, 3) of each channel's
    harmonics; `gain` (people, 6) of each channel; `tilt` (people, 3) how the phone lies in the
    pocket, in units of g.
    """

    sex: NDArray[np.int64]
    height: NDArray[np.float64]
    frequency: NDArray[np.float64]
    amplitude: NDArray[np.float64]
    timbre: NDArray[np.float64]
    phase: NDArray[np.float64]
    gain: NDArray[np.float64]
    tilt: NDArray[np.float64]


def people(count: int = 30, *, seed: int = 0) -> People:
    """The people of `gait` under the same seed: the known ground truth.

    Sex acts only through the body: men are taller (1.79 against 1.64 m, 5 cm spread), taller
    people step more slowly (frequency ~ height**-2, more than a pendulum's height**-0.5, so that
    thirty people suffice) and with more force (~ height**3).
    """
    rng = seeded(seed, 10)
    sex = rng.permutation(np.arange(count) % 2)
    height = np.where(sex == 1, 1.79, 1.64) + 0.05 * rng.standard_normal(count)
    return People(
        sex=sex,
        height=height,
        frequency=1.9 * (1.715 / height) ** 2 + 0.04 * rng.standard_normal(count),
        amplitude=(height / 1.715) ** 3 * np.exp(0.12 * rng.standard_normal(count)),
        timbre=np.exp(0.2 * rng.standard_normal((count, 3))),
        phase=0.8 * rng.standard_normal((count, len(CHANNELS), 3)),
        gain=np.exp(0.40 * rng.standard_normal((count, len(CHANNELS)))),
        tilt=0.20 * rng.standard_normal((count, 3)),
    )


def gait(
    *, seed: int = 0, public: str = "activity", persons: int = 30, recordings: int = 8
) -> Task:
    """SYNTHETIC phone windows (n, 6, 64): acceleration in g, rotation in rad/s, 32 Hz, 2 s.

    Public: one of five activities. Private: person, and sex, which only the body betrays. Each
    person makes `recordings` recordings of each activity, five windows each; the phone is put back
    into the pocket before each. 30 people, 6,000 windows by default.
    """
    if public != "activity":
        raise ConfigError(f"Expected public='activity', got public={public!r}.")
    if persons < 2 or recordings < 1:
        raise ConfigError(
            f"Expected persons >= 2 and recordings >= 1, got persons={persons}, "
            f"recordings={recordings}."
        )
    crowd = people(persons, seed=seed)
    person, activity = (
        axis.ravel()
        for axis in np.meshgrid(
            np.arange(persons), np.repeat(np.arange(len(ACTIVITIES)), recordings), indexing="ij"
        )
    )
    signal = _record(crowd, person, activity, seeded(seed, 11))
    apart = signal.reshape(len(person), len(CHANNELS), WINDOWS_PER_RECORDING, SAMPLES)
    x = apart.transpose(0, 2, 1, 3).reshape(-1, len(CHANNELS), SAMPLES)
    rows = np.repeat(np.arange(len(person)), WINDOWS_PER_RECORDING)
    return Task(
        name="gait",
        x=np.ascontiguousarray(x, dtype=np.float32),
        public=activity[rows],
        private={"person": person[rows], "sex": crowd.sex[person[rows]]},
        users=person[rows],
        recordings=rows,
        synthetic=True,
        source=f"SYNTHETIC: reticent.data.generators.gait, seed {seed}",
        class_names=ACTIVITIES,
        attribute_names={
            "person": tuple(f"person {index}" for index in range(persons)),
            "sex": ("woman", "man"),
        },
    )


def _record(
    crowd: People,
    person: NDArray[np.int64],
    activity: NDArray[np.int64],
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """One continuous signal per recording, (recordings, 6, samples).

    Channel c moves as A g_c sum_k h_k cos(2 pi k f t + phase_ck) around gravity turned by the
    pocket, with speed and strength that differ between recordings and wander within them.
    """
    count, channels, length = len(person), len(CHANNELS), SAMPLES * WINDOWS_PER_RECORDING
    factor, amplitude, *harmonics = _MOTION[activity].T
    pace = factor * crowd.frequency[person] * np.exp(0.04 * rng.standard_normal(count))
    wander = np.cumsum(0.01 * rng.standard_normal((count, length)), axis=1)
    turns = pace[:, None] * np.arange(length) / RATE_HZ + rng.uniform(size=(count, 1)) + wander
    strength = amplitude * crowd.amplitude[person] * np.exp(0.12 * rng.standard_normal(count))
    shares = np.stack([np.ones(count), *harmonics], axis=1) * crowd.timbre[person]
    shares *= np.exp(0.12 * rng.standard_normal((count, 3)))
    phase = crowd.phase[person] + 0.15 * rng.standard_normal((count, channels, 3))
    wave = np.zeros((count, channels, length))
    for order in range(3):
        angle = 2 * np.pi * (order + 1) * turns[:, None, :] + phase[:, :, order, None]
        wave += shares[:, order, None, None] * np.cos(angle)
    gain = crowd.gain[person] * np.array([0.6, 1.0, 0.7, 1.5, 1.0, 0.8])
    wave *= (strength[:, None] * gain)[:, :, None]
    upright = np.where((activity == 0)[:, None], [0.0, 0.25, 0.97], [0.05, 0.95, 0.2])
    tilt = upright + crowd.tilt[person] + 0.05 * rng.standard_normal((count, 3))
    tilt /= np.linalg.norm(tilt, axis=1, keepdims=True)
    wave[:, :3] += tilt[:, :, None]
    return wave + 0.03 * rng.standard_normal(wave.shape)
