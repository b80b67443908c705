"""Log-mel spectrogram: sound as energy per band and frame."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def log_mel(
    samples: NDArray[np.float64], *, rate: int, bands: int, frame: int = 256, hop: int = 80
) -> NDArray[np.float64]:
    """Natural log of mel-band energies, shape (bands, frames), of `samples` (n,) in -1..1.

    Hann windows of `frame` samples every `hop`; triangular filters evenly spaced on the mel scale
    2595 log10(1 + f / 700) between 60 Hz and rate / 2 (Davis & Mermelstein 1980).
    """
    padded = np.pad(samples, (0, max(0, frame - len(samples))))
    starts = np.arange(0, len(padded) - frame + 1, hop)
    framed = padded[starts[:, None] + np.arange(frame)] * np.hanning(frame)
    power = np.abs(np.fft.rfft(framed, axis=1)) ** 2
    energy = power @ _filters(rate, bands, frame).T
    made: NDArray[np.float64] = np.log(energy.T + 1e-6)
    return made


def _filters(rate: int, bands: int, frame: int) -> NDArray[np.float64]:
    """Triangular filters (bands, frame // 2 + 1)."""
    mel = np.linspace(_to_mel(60.0), _to_mel(rate / 2), bands + 2)
    edges = 700 * (10 ** (mel / 2595) - 1)
    bins = np.fft.rfftfreq(frame, 1 / rate)
    rising = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    return np.clip(np.minimum(rising, falling), 0, None)


def _to_mel(frequency: float) -> float:
    return float(2595 * np.log10(1 + frequency / 700))
