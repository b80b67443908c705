"""Free Spoken Digit Dataset: 3,000 recordings of six men (Jackson et al., CC BY-SA 4.0)."""

from __future__ import annotations

import io
import itertools
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reticent.data.digest import check_rows, read_verified
from reticent.data.labels import encode_labels
from reticent.data.spectrogram import log_mel
from reticent.data.task import Task
from reticent.errors import ConfigError

AUDIO_SHA256 = "2a38c3131971e469819399a3eb5d1019ea63232072773b96b5d5a3c1d3278f53"
SPEAKERS_SHA256 = "78d322d8e38bc69bf03decee8fda0826b4c4926b603b867f2f63bff1968abc44"
RECORDINGS = 3000
RATE = 8000
BANDS, FRAMES = 32, 40


def fsdd(folder: Path, *, public: str = "digit") -> Task:
    """Log-mel spectrograms (3000, 1, 32, 40) of spoken digits. Public: digit.

    Each recording is stretched to 40 frames, so its speed isn't kept. Private: speaker, accent
    (four). All six speakers are men: there is no sex to infer.
    """
    if public != "digit":
        raise ConfigError(f"Expected public='digit', got public={public!r}.")
    stored = read_verified(folder / "fsdd.npz", AUDIO_SHA256)
    with np.load(io.BytesIO(stored), allow_pickle=False) as arrays:
        audio, offsets = arrays["audio"], arrays["offsets"]
        digit, names = arrays["digit"].astype(np.int64), arrays["speaker"]
    check_rows(len(digit), RECORDINGS, "fsdd")
    about = json.loads(read_verified(folder / "speakers.json", SPEAKERS_SHA256))
    speaker, speakers = encode_labels(names, "speaker")
    accent, accents = encode_labels(np.asarray([about[name][1] for name in names]), "accent")
    x = np.stack([_patch(audio[start:stop]) for start, stop in itertools.pairwise(offsets)])
    return Task(
        name="fsdd",
        x=x[:, None],
        public=digit,
        private={"speaker": speaker, "accent": accent},
        users=speaker,
        label="digit",
        source="Free Spoken Digit Dataset, CC BY-SA 4.0",
        class_names=tuple("0123456789"),
        attribute_names={"speaker": speakers, "accent": accents},
    )


def _patch(samples: NDArray[np.int16]) -> NDArray[np.float32]:
    """One recording as (32, 40): log-mel frames, stretched in time, in natural log units."""
    mel = log_mel(samples.astype(np.float64) / 32768.0, rate=RATE, bands=BANDS)
    places = np.linspace(0, mel.shape[1] - 1, FRAMES)
    low = np.floor(places).astype(int)
    high = np.minimum(low + 1, mel.shape[1] - 1)
    share = places - low
    return np.asarray((1 - share) * mel[:, low] + share * mel[:, high], dtype=np.float32)
