"""How close a reconstruction is to the truth: PSNR and SSIM."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

_SIGMA = 1.5
_RADIUS = 5


def psnr(
    guess: NDArray[np.floating], truth: NDArray[np.floating], *, data_range: float
) -> NDArray[np.float64]:
    """Peak signal-to-noise ratio in dB per record, (n,); infinite where a guess is exact."""
    squared = (guess.astype(np.float64) - truth.astype(np.float64)) ** 2
    error = squared.reshape(len(squared), -1).mean(axis=1)
    with np.errstate(divide="ignore"):
        return np.asarray(10 * np.log10(data_range**2 / error))


def ssim(
    guess: NDArray[np.floating], truth: NDArray[np.floating], *, data_range: float
) -> NDArray[np.float64]:
    """Structural similarity per image (Wang et al. 2004), (n,), for images (n, C, H, W).

    Gaussian window of deviation 1.5 cut at 11 pixels, K1 = 0.01, K2 = 0.03, population
    covariance, mean over the channels and over the pixels whose window lies inside the image
    (over all pixels where the image is smaller than the window).
    """
    a, b = guess.astype(np.float64), truth.astype(np.float64)
    first, second = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2

    def smooth(image: NDArray[np.float64]) -> NDArray[np.float64]:
        sigma = (0.0, 0.0, _SIGMA, _SIGMA)
        return np.asarray(gaussian_filter(image, sigma, radius=(0, 0, _RADIUS, _RADIUS)))

    mean_a, mean_b = smooth(a), smooth(b)
    variance_a, variance_b = smooth(a * a) - mean_a**2, smooth(b * b) - mean_b**2
    covariance = smooth(a * b) - mean_a * mean_b
    score = (2 * mean_a * mean_b + first) * (2 * covariance + second)
    score /= (mean_a**2 + mean_b**2 + first) * (variance_a + variance_b + second)
    if min(score.shape[2:]) > 2 * _RADIUS:
        score = score[:, :, _RADIUS:-_RADIUS, _RADIUS:-_RADIUS]
    return np.asarray(score.mean(axis=(1, 2, 3)))
