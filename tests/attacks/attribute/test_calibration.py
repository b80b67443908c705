import numpy as np

from reticent.attacks.attribute.calibration import balanced_accuracy, balanced_log_loss, calibrate


def _noisy_scores(rng: np.random.Generator, factor: float) -> tuple[np.ndarray, np.ndarray]:
    """Exact log-likelihood ratios of two unit Gaussians one apart, times an overconfidence."""
    target = rng.integers(2, size=4000)
    seen = target + rng.normal(size=4000)
    ratio = factor * (seen - 0.5)
    return np.stack([np.zeros(4000), ratio], axis=1), target


def test_temperature_undoes_overconfidence() -> None:
    scores, target = _noisy_scores(np.random.default_rng(0), 8.0)
    fitted = calibrate(scores, target)
    assert 5.5 < fitted.temperature < 11.5


def test_exact_posteriors_stay_as_they_are() -> None:
    scores, target = _noisy_scores(np.random.default_rng(1), 1.0)
    assert 0.8 <= calibrate(scores, target).temperature <= 1.25


def test_useless_scores_become_nearly_uniform() -> None:
    rng = np.random.default_rng(2)
    scores, target = 5 * rng.normal(size=(2000, 4)), rng.integers(4, size=2000)
    calibrated = calibrate(scores, target).apply(scores)
    assert abs(balanced_log_loss(calibrated, target) - np.log(4)) < 0.08


def test_balanced_accuracy_is_the_mean_recall() -> None:
    target = np.array([0, 0, 0, 0, 1])
    always_zero = np.tile([1.0, 0.0], (5, 1))
    assert balanced_accuracy(always_zero, target) == 0.5
