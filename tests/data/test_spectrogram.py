"""Log-mel spectrograms: a pure tone peaks in the band that its frequency belongs to."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from reticent.data.spectrogram import log_mel

RATE = 8000
BANDS = 32


def tone(frequency: float, seconds: float = 0.5, loudness: float = 0.5) -> NDArray[np.float64]:
    return loudness * np.sin(2 * np.pi * frequency * np.arange(int(seconds * RATE)) / RATE)


def centre(band: int) -> float:
    """The frequency where filter `band` peaks: evenly spaced in 2595 log10(1 + f / 700)."""
    low, high = (2595 * np.log10(1 + f / 700) for f in (60.0, RATE / 2))
    return float(700 * (10 ** ((low + (band + 1) * (high - low) / (BANDS + 1)) / 2595) - 1))


@pytest.mark.parametrize("band", range(4, BANDS))
def test_a_pure_tone_peaks_in_its_band(band: int) -> None:
    mel = log_mel(tone(centre(band)), rate=RATE, bands=BANDS)
    assert (mel.argmax(axis=0) == band).all()
    far = np.abs(np.arange(BANDS) - band) > 6
    assert (mel[far].max(axis=0) < mel[band] - np.log(100)).all()


@pytest.mark.parametrize("band", range(4))
def test_low_bands_are_narrower_than_a_bin_and_peak_within_one_band(band: int) -> None:
    # 256 samples resolve 31 Hz; the lowest filters are about 45 Hz apart.
    mel = log_mel(tone(centre(band)), rate=RATE, bands=BANDS)
    assert (np.abs(mel.argmax(axis=0) - band) <= 1).all()


@pytest.mark.parametrize(
    ("samples", "frames"), [(0, 1), (100, 1), (256, 1), (335, 1), (336, 2), (8000, 97)]
)
def test_a_frame_starts_every_hop_and_short_sounds_are_padded(samples: int, frames: int) -> None:
    assert log_mel(np.zeros(samples), rate=RATE, bands=BANDS).shape == (BANDS, frames)


def test_silence_is_finite_and_twice_as_loud_is_log_four_more() -> None:
    assert np.allclose(log_mel(np.zeros(512), rate=RATE, bands=BANDS), np.log(1e-6))
    quiet, loud = (
        log_mel(tone(1000.0, loudness=loudness), rate=RATE, bands=BANDS).max(axis=0)
        for loudness in (0.25, 0.5)
    )
    assert loud - quiet == pytest.approx(np.full_like(loud, np.log(4)), abs=1e-3)


def test_time_runs_along_the_second_axis() -> None:
    half = tone(500.0, 0.25)
    peaks = log_mel(np.concatenate([half, tone(2500.0, 0.25)]), rate=RATE, bands=BANDS).argmax(0)
    assert peaks[2] < peaks[-3]
