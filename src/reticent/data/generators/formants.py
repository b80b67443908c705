"""SYNTHETIC speech: digits as paths through vowel formants, spoken by generated vocal tracts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from reticent.data.task import Task
from reticent.errors import ConfigError
from reticent.random import seeded

BANDS, FRAMES = 32, 40
DIGITS = tuple("0123456789")
# Ten "words", each a path between two vowels, as first and second formant in Hz (after the vowel
# chart of Peterson & Barney 1952), and how noisy its onset is.
_VOWELS = np.array(
    [[270, 2290], [390, 1990], [530, 1840], [660, 1720], [730, 1090], [570, 840], [300, 870]]
)
_WORDS = np.array([[0, 5], [4, 1], [6, 3], [2, 0], [5, 2], [4, 0], [1, 3], [3, 6], [2, 4], [0, 4]])
_HISS = np.array([0.8, 0.1, 0.5, 0.7, 0.6, 0.4, 0.9, 0.8, 0.2, 0.1])


def formants(*, seed: int = 0, public: str = "digit", speakers: int = 16, takes: int = 20) -> Task:
    """SYNTHETIC log-spectrograms (n, 1, 32, 40): ten spoken digits.

    Each speaker has a vocal-tract length (which scales every formant), a pitch (which draws the
    harmonics' comb), a tilt of the spectrum, and a speaking rate; sex shifts tract and pitch.
    Public: digit. Private: speaker, sex.
    """
    if public != "digit" or speakers < 2 or takes < 2:
        raise ConfigError(
            "Expected public='digit', speakers >= 2 and takes >= 2, got "
            f"public={public!r}, speakers={speakers}, takes={takes}."
        )
    rng = seeded(seed, 40)
    sex = rng.permutation(np.arange(speakers) % 2)
    tract = np.where(sex == 1, 1.0, 1.16) * np.exp(0.04 * rng.standard_normal(speakers))
    pitch = np.where(sex == 1, 120.0, 205.0) * np.exp(0.10 * rng.standard_normal(speakers))
    tilt = 0.35 * rng.standard_normal(speakers)
    rate = np.exp(0.10 * rng.standard_normal(speakers))
    speaker = np.repeat(np.arange(speakers), 10 * takes)
    digit = np.tile(np.repeat(np.arange(10), takes), speakers)
    x = _speak(digit, tract[speaker], pitch[speaker], tilt[speaker], rate[speaker], rng)
    return Task(
        name="formants",
        x=x[:, None].astype(np.float32),
        public=digit,
        private={"speaker": speaker, "sex": sex[speaker]},
        users=speaker,
        synthetic=True,
        label="digit",
        source=f"SYNTHETIC: reticent.data.generators.formants, seed {seed}",
        class_names=DIGITS,
        attribute_names={
            "speaker": tuple(f"speaker {index}" for index in range(speakers)),
            "sex": ("woman", "man"),
        },
    )


def _speak(
    digit: NDArray[np.int64],
    tract: NDArray[np.float64],
    pitch: NDArray[np.float64],
    tilt: NDArray[np.float64],
    rate: NDArray[np.float64],
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Log energies (n, 32, 40): two formant ridges on a harmonic comb, hiss at the onset."""
    n = len(digit)
    frequency = np.linspace(100, 3800, BANDS)[None, :, None]
    time = np.linspace(0, 1, FRAMES)[None, None, :]
    warp = rate * np.exp(0.12 * rng.standard_normal(n))
    bend = np.clip((time - 0.25) * warp[:, None, None] / 0.6, 0, 1)
    start, end = _VOWELS[_WORDS[digit, 0]], _VOWELS[_WORDS[digit, 1]]
    jitter = np.exp(0.05 * rng.standard_normal((n, 2)))
    energy = np.zeros((n, BANDS, FRAMES))
    for which, strength in ((0, 1.0), (1, 0.7)):
        low = (start[:, which] * jitter[:, which] * tract)[:, None, None]
        high = (end[:, which] * jitter[:, which] * tract)[:, None, None]
        ridge = low + (high - low) * bend
        width = 110 + 0.05 * ridge
        energy += strength * np.exp(-0.5 * ((frequency - ridge) / width) ** 2)
    voice = (pitch * np.exp(0.03 * rng.standard_normal(n)))[:, None, None]
    comb = 0.75 + 0.25 * np.cos(2 * np.pi * frequency / voice)
    loud = np.exp(-0.5 * ((time - 0.55) / 0.28) ** 2)
    hiss = _HISS[digit][:, None, None] * np.exp(-0.5 * ((time - 0.12) / 0.06) ** 2)
    energy = energy * comb * loud + 0.35 * hiss * frequency / 3800
    slope = tilt[:, None, None] * (frequency / 3800 - 0.5)
    volume = 0.3 * rng.standard_normal((n, 1, 1))
    return np.log(energy + 0.02) + slope + volume + 0.25 * rng.standard_normal(energy.shape)
