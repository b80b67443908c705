import json
from dataclasses import replace

import numpy as np
import pytest
from attack_views import gaussian, view

from reticent.attacks.finding import Finding
from reticent.attacks.view import ServerView
from reticent.audit.decoding import few_shot_decoding
from reticent.audit.reconstruction import audit_reconstruction
from reticent.audit.similarity import psnr, ssim
from reticent.guarantee import CLIENT, Pillar


def _coded(server: ServerView) -> ServerView:
    parts = {
        name: replace(part, features=part.predicted[:, None].astype(np.float32))
        for name, part in (
            ("attacker_train", server.attacker_train),
            ("attacker_validation", server.attacker_validation),
            ("test", server.test),
        )
    }
    return replace(server, alphabet=4, **parts)


def test_features_that_are_the_input_are_rebuilt_and_codes_are_not() -> None:
    plain = view(gaussian(8), sizes=(300, 100, 100))
    finding, examples = audit_reconstruction(_coded(plain), undefended=plain, seeds=(0, 1))
    assert (finding.value, finding.ci, finding.excess_ci) == (0.0, (0.0, 0.0), (0.0, 0.0))
    assert finding.ceiling > 0.99
    assert finding.pillar is Pillar.INPUT
    assert examples.inputs.shape == examples.best.shape == (8, 8)
    assert np.array_equal(examples.best, examples.floor)
    assert examples.method.startswith("class mean")
    assert Finding.from_json(json.loads(json.dumps(finding.to_json()))) == finding


def test_value_is_the_share_of_the_class_means_error_that_is_explained() -> None:
    """Half of eight independent unit coordinates are seen: half of the variance is explained."""
    server = view(gaussian(8), sizes=(600, 200, 600))
    parts = {
        name: replace(getattr(server, name), features=getattr(server, name).features[:, :4])
        for name in ("attacker_train", "attacker_validation", "test")
    }
    finding, _examples = audit_reconstruction(replace(server, **parts), quick=True)
    assert finding.value == pytest.approx(0.5, abs=0.04)
    assert finding.ci[0] < 0.5 < finding.ci[1]


def test_psnr_by_hand() -> None:
    truth = np.zeros((2, 1, 4, 4))
    assert psnr(truth + 0.1, truth, data_range=1.0) == pytest.approx([20.0, 20.0])
    assert np.isinf(psnr(truth, truth, data_range=1.0)).all()


def test_ssim_of_equal_images_is_one_and_of_constants_is_the_luminance_term() -> None:
    image = np.random.default_rng(0).random((3, 2, 16, 16))
    assert ssim(image, image, data_range=1.0) == pytest.approx([1.0, 1.0, 1.0])
    low, high = np.full((1, 1, 16, 16), 0.2), np.full((1, 1, 16, 16), 0.6)
    expected = (2 * 0.2 * 0.6 + 1e-4) / (0.2**2 + 0.6**2 + 1e-4)
    assert ssim(low, high, data_range=1.0)[0] == pytest.approx(expected)


def test_ssim_equals_a_slow_path_over_windows() -> None:
    """One 11 x 11 window at a time, Gaussian weights that sum to one."""
    rng = np.random.default_rng(1)
    a, b = rng.random((14, 14)), rng.random((14, 14))
    axis = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    weights = np.outer(axis, axis) / axis.sum() ** 2
    scores = []
    for row in range(4):
        for column in range(4):
            one, two = (image[row : row + 11, column : column + 11] for image in (a, b))
            m1, m2 = (weights * one).sum(), (weights * two).sum()
            v1, v2 = (weights * (one - m1) ** 2).sum(), (weights * (two - m2) ** 2).sum()
            both = (weights * (one - m1) * (two - m2)).sum()
            scores.append(
                (2 * m1 * m2 + 1e-4)
                * (2 * both + 9e-4)
                / ((m1**2 + m2**2 + 1e-4) * (v1 + v2 + 9e-4))
            )
    got = ssim(a[None, None], b[None, None], data_range=1.0)[0]
    assert got == pytest.approx(np.mean(scores))


def test_few_shot_decoding_is_a_model_finding_against_chance() -> None:
    rng = np.random.default_rng(2)
    labels = np.arange(400) % 4
    features = 1.2 * np.eye(4)[labels] + rng.normal(size=(400, 4))
    one, five = few_shot_decoding(features, labels, ceiling=0.9)
    assert (one.pillar, one.adversary, one.floor) == (Pillar.MODEL, CLIENT.name, 0.25)
    assert 0.25 < one.value < five.value < 0.9
    assert one.ci[0] < one.value < one.ci[1]
    assert one.ceiling == 0.9
    (code,) = few_shot_decoding(labels[:, None].astype(np.float32), labels, shots=(1,), alphabet=4)
    assert code.value == 1.0
