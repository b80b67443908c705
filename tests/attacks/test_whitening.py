import numpy as np
import pytest
import torch

from reticent.attacks.whitening import KEEP_ALL, REDUCED, Whitening


def test_whitened_training_features_are_decorrelated_with_unit_variance() -> None:
    rng = np.random.default_rng(0)
    features = (rng.normal(size=(500, 12)) @ rng.normal(size=(12, 12)) + 7).astype(np.float32)
    white = Whitening.fit(features).apply(features)
    assert np.allclose(np.cov(white.T, bias=True), np.eye(12), atol=1e-6)


@pytest.mark.parametrize("factor", [1e-4, 1.0, 1e4])
def test_shrinking_features_changes_nothing(factor: float) -> None:
    rng = np.random.default_rng(1)
    features = rng.normal(size=(200, 6)).astype(np.float32)
    small = (features * np.float32(factor)).astype(np.float32)
    assert np.allclose(
        Whitening.fit(features).standardise(features),
        Whitening.fit(small).standardise(small),
        atol=1e-4,
    )


def test_a_direction_a_thousandth_as_loud_is_kept_and_brought_to_unit_variance() -> None:
    rng = np.random.default_rng(2)
    secret = rng.choice([-1.0, 1.0], size=800)
    direction = np.ones(8) / np.sqrt(8)
    features = rng.normal(size=(800, 8))
    features += np.outer(1e-3 * secret - features @ direction, direction)
    white = Whitening.fit(features.astype(np.float32)).apply(features.astype(np.float32))
    assert np.abs(np.corrcoef(white[:, -1], secret)[0, 1]) > 0.99


def test_constant_features_vanish_and_wide_features_are_reduced() -> None:
    rng = np.random.default_rng(3)
    features = rng.normal(size=(300, KEEP_ALL + 50)).astype(np.float32)
    features[:, 0] = 3.0
    whitening = Whitening.fit(features)
    assert (whitening.standardise(features)[:, 0] == 0).all()
    white = whitening.apply(features)
    assert white.shape == (300, REDUCED)
    assert np.allclose(np.cov(white.T, bias=True), np.eye(REDUCED), atol=0.05)


def test_a_value_far_outside_what_was_fitted_is_cut() -> None:
    features = np.random.default_rng(4).normal(size=(100, 2)).astype(np.float32)
    assert np.abs(Whitening.fit(features).apply(features * 1e6)).max() <= 12


def test_tensor_map_equals_array_map() -> None:
    features = np.random.default_rng(5).normal(size=(60, 4, 3)).astype(np.float32)
    whitening = Whitening.fit(features)
    standardised, whitened = whitening.apply_tensor(torch.from_numpy(features))
    assert np.allclose(standardised.numpy(), whitening.standardise(features), atol=1e-6)
    assert np.allclose(whitened.numpy(), whitening.apply(features), atol=1e-5)
