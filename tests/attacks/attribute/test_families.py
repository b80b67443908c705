"""Each family must find the kind of leak it is there for, and none where there is none."""

import numpy as np
import pytest
import torch
from attack_views import gaussian, view

from reticent.attacks.attribute.inference import FAMILIES, attack_attribute
from reticent.attacks.view import ServerView


def _recall(server: ServerView, family: str, seed: int = 0) -> float:
    scores = attack_attribute(server, "secret", seed=seed, families=[family])
    truth = server.test.private["secret"]
    hits = scores.families[family].argmax(axis=1) == np.searchsorted(scores.classes, truth)
    return float(np.mean([hits[truth == value].mean() for value in np.unique(truth)]))


@pytest.mark.parametrize("family", ["linear", "nearest", "quadratic", "boosting", "perceptron"])
def test_a_loud_leak_is_found_by_every_general_family(family: str) -> None:
    """Two unit Gaussians 3.4 apart: the Bayes rule is right in Phi(1.7) = 95.5 % of records."""

    def shifted(rng, label, secret):
        features = gaussian(16)(rng, label, secret)
        return features + np.float32(3.4 / 4) * secret[:, None].astype(np.float32)

    assert 0.89 < _recall(view(shifted), family) < 0.98


def _product(rng, label, secret):
    features = rng.normal(size=(len(label), 8))
    sign = np.where(features[:, 0] >= 0, 1.0, -1.0) * (2 * secret - 1)
    features[:, 1] = np.abs(features[:, 1]) * sign
    return features.astype(np.float32)


def test_a_product_of_signs_is_invisible_to_a_line_and_seen_by_others() -> None:
    server = view(_product)
    assert _recall(server, "linear") < 0.56
    assert _recall(server, "perceptron") > 0.85
    assert _recall(server, "boosting") > 0.85
    assert _recall(server, "quadratic") > 0.75


def _texture(rng, label, secret):
    """Stripes along rows or along columns, random phase, on maps of (1, 8, 8)."""
    wave = np.where(np.arange(8) % 2 == 0, 1.0, -1.0)
    phase = rng.choice([-1.0, 1.0], size=(len(label), 1, 1))
    stripes = np.where(secret[:, None, None] == 1, wave[None, :, None], wave[None, None, :])
    maps = phase * stripes * 0.6 + rng.normal(size=(len(label), 8, 8))
    return maps[:, None].astype(np.float32)


def test_a_texture_is_invisible_to_a_line_and_seen_by_convolutions() -> None:
    server = view(_texture)
    assert _recall(server, "linear") < 0.58
    assert _recall(server, "convolutional") > 0.9


def test_convolutions_read_series_and_skip_flat_features() -> None:
    def series(rng, label, secret):
        time = np.arange(48)
        shift = rng.uniform(0, 2 * np.pi, size=(len(label), 1))
        pace = np.where(secret == 1, 0.9, 0.6)[:, None]
        waves = np.sin(pace * time + shift) + rng.normal(size=(len(label), 48))
        return waves[:, None].astype(np.float32)

    assert _recall(view(series), "convolutional") > 0.85
    scores = attack_attribute(view(gaussian(4)), "secret", seed=0, families=["convolutional"])
    assert "convolutional" not in scores.families


@pytest.mark.parametrize("carrier", ["third decimal", "lowest mantissa bit"])
def test_digits_are_read_where_nothing_else_sees_them(carrier: str) -> None:
    def hidden(rng, label, secret):
        features = rng.normal(size=(len(label), 6)).astype(np.float32)
        if carrier == "third decimal":
            sign = np.where(features[:, 2] < 0, -1.0, 1.0)
            size = np.floor(np.abs(features[:, 2].astype(np.float64)) * 100) / 100
            features[:, 2] = sign * (size + 0.001 * (3 + 4 * secret) + 0.0005)
        else:
            words = np.ascontiguousarray(features).view(np.uint32)
            words[:, 2] = (words[:, 2] & np.uint32(0xFFFFFFFE)) | secret.astype(np.uint32)
            features = words.view(np.float32)
        return features

    server = view(hidden)
    assert _recall(server, "linear") < 0.57
    assert _recall(server, "digits") > 0.97


def test_fresh_noise_is_answered_near_the_bayes_rate() -> None:
    """Clean features are two points 2 apart, noise 1: the Bayes rule is right in Phi(1) = 84 %."""

    def points(rng, label, secret):
        features = np.zeros((len(label), 4), dtype=np.float32)
        features[:, 0] = 2 * secret - 1
        return features

    server = view(
        points, redraw=lambda clean: clean + torch.randn_like(clean), sizes=(900, 400, 3000)
    )
    for family in ("linear", "nearest", "perceptron"):
        # Three standard errors of 3,000 records are 2 points.
        assert 0.80 < _recall(server, family) < 0.865, family


def test_the_noise_is_drawn_afresh_for_every_batch() -> None:
    calls: list[int] = []

    def redraw(clean: torch.Tensor) -> torch.Tensor:
        calls.append(len(clean))
        return clean + torch.randn_like(clean)

    server = view(gaussian(4), redraw=redraw, sizes=(400, 100, 100))
    attack_attribute(server, "secret", seed=0, families=["perceptron"])
    assert len(calls) > 40
    assert len(server.test) in calls


def test_the_count_table_is_the_posterior_by_hand() -> None:
    """Code 0 holds value 1 in 3 of 4 records, code 1 in 1 of 4; both labels are the same."""

    def codes(rng, label, secret):
        return np.empty((len(label), 1), dtype=np.float32)

    from dataclasses import replace

    server = view(codes, sizes=(8, 8, 8), classes=1, users=2, alphabet=2)
    code = np.array([[0], [0], [0], [0], [1], [1], [1], [1]], dtype=np.float32)
    value = np.array([1, 1, 1, 0, 0, 0, 0, 1])

    def filled(part):
        return replace(part, features=code, private={"secret": value})

    server = replace(
        server,
        attacker_train=filled(server.attacker_train),
        attacker_validation=filled(server.attacker_validation),
        test=filled(server.test),
    )
    scores = attack_attribute(server, "secret", seed=0)
    assert set(scores.families) == {"label table", "count table"}
    decided = scores.families["count table"].argmax(axis=1)
    assert decided.tolist() == [1, 1, 1, 1, 0, 0, 0, 0]


def test_every_family_has_a_test_of_its_power_here() -> None:
    assert set(FAMILIES) == {
        "count table",
        "linear",
        "nearest",
        "quadratic",
        "digits",
        "boosting",
        "perceptron",
        "convolutional",
    }
