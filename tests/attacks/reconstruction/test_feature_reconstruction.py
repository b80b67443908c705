from dataclasses import replace

import numpy as np
import pytest
import torch
from attack_views import gaussian, view
from torch import nn

from reticent.attacks.reconstruction.features import FLOOR, OPTIMISED, attack_reconstruction
from reticent.attacks.view import Observed, ServerView


class Mixing(nn.Module):
    """A linear encoder of fixed weights; square ones lose nothing."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        weights = np.random.default_rng(5).normal(size=(outputs, inputs)) / np.sqrt(inputs)
        self.weights = nn.Parameter(torch.tensor(weights, dtype=torch.float32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x.flatten(1) @ self.weights.T)


def _images(encoder: nn.Module, sizes: tuple[int, int, int] = (300, 80, 90)) -> ServerView:
    """SYNTHETIC images (1, 6, 6): a blob per label plus smooth individual variation."""
    grid = np.arange(6)

    def part(index: int) -> Observed:
        rng = np.random.default_rng([11, index])
        n = sizes[index]
        label = rng.integers(3, size=n)
        centre = label[:, None] * 2 + rng.normal(scale=0.5, size=(n, 1))
        row = np.exp(-((grid[None] - centre) ** 2) / 3)
        column = np.exp(-((grid[None] - rng.uniform(1, 4, size=(n, 1))) ** 2) / 3)
        x = (row[:, :, None] * column[:, None, :])[:, None].astype(np.float32)
        with torch.no_grad():
            features = encoder(torch.from_numpy(x)).numpy()
        return Observed(
            features=features,
            predicted=label,
            inputs=x,
            private={"secret": rng.integers(2, size=n)},
            users=None,
        )

    return ServerView(
        name="SYNTHETIC",
        attacker_train=part(0),
        attacker_validation=part(1),
        test=part(2),
        classes=3,
        encoder=encoder,
    )


def _ratio(server: ServerView, scores, method: str) -> float:
    rows = scores.rows[method]
    truth = server.test.inputs[rows]
    missed = ((scores.inputs[method] - truth) ** 2).sum()
    return float(missed / ((scores.floor[rows] - truth) ** 2).sum())


def test_an_invertible_encoder_is_inverted_by_every_method() -> None:
    server = _images(Mixing(36, 36))
    scores = attack_reconstruction(server, seed=0)
    assert _ratio(server, scores, "ridge") < 0.05
    assert _ratio(server, scores, "network") < 0.4
    assert _ratio(server, scores, OPTIMISED) < 0.05
    assert _ratio(server, scores, FLOOR) == 1.0
    assert _ratio(server, scores, scores.chosen) < 0.05


def test_white_box_optimisation_beats_its_start_where_the_encoder_is_known() -> None:
    """Few attacker records: decoders can't learn the map, but the weights tell it."""
    server = _images(Mixing(36, 36), sizes=(40, 30, 40))
    scores = attack_reconstruction(server, seed=0)
    assert scores.chosen == OPTIMISED
    assert _ratio(server, scores, OPTIMISED) < 0.5 * _ratio(server, scores, "ridge")


def test_features_that_carry_nothing_rebuild_the_class_mean_only() -> None:
    encoder = Mixing(36, 4)
    server = _images(encoder)

    def emptied(part: Observed) -> Observed:
        noise = np.random.default_rng(len(part)).normal(size=(len(part), 4))
        return replace(part, features=noise.astype(np.float32))

    server = replace(
        server,
        attacker_train=emptied(server.attacker_train),
        attacker_validation=emptied(server.attacker_validation),
        test=emptied(server.test),
        encoder=None,
    )
    scores = attack_reconstruction(server, seed=0)
    assert _ratio(server, scores, scores.chosen) == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("order", [[0, 1, 2], [1, 2, 0]])
def test_a_label_only_code_rebuilds_the_class_mean_exactly(order: list[int]) -> None:
    server = _images(Mixing(36, 4))

    def coded(part: Observed) -> Observed:
        return replace(part, features=np.array(order, np.float32)[part.predicted][:, None])

    server = replace(
        server,
        attacker_train=coded(server.attacker_train),
        attacker_validation=coded(server.attacker_validation),
        test=coded(server.test),
        alphabet=3,
    )
    scores = attack_reconstruction(server, seed=0)
    for found in scores.inputs.values():
        assert np.array_equal(found, scores.floor)


def test_a_finer_code_rebuilds_the_mean_of_its_cell() -> None:
    server = _images(Mixing(36, 4))

    def coded(part: Observed) -> Observed:
        left = part.inputs[:, 0, :, :3].sum((1, 2)) > part.inputs[:, 0, :, 3:].sum((1, 2))
        code = 2 * part.predicted + left
        return replace(part, features=code[:, None].astype(np.float32))

    server = replace(
        server,
        attacker_train=coded(server.attacker_train),
        attacker_validation=coded(server.attacker_validation),
        test=coded(server.test),
        alphabet=6,
    )
    scores = attack_reconstruction(server, seed=0)
    assert scores.chosen == "mean per code"
    train, test = server.attacker_train, server.test
    for code in np.unique(test.features):
        expected = train.inputs[train.features[:, 0] == code].mean(axis=0)
        got = scores.inputs["mean per code"][test.features[:, 0] == code]
        assert np.allclose(got, expected, atol=1e-5)


def test_no_decoder_sees_the_truth_of_the_test_part() -> None:
    server = view(gaussian(6), sizes=(150, 60, 50))
    blank = replace(server.test, inputs=np.full_like(server.test.inputs, np.nan))
    scores = attack_reconstruction(replace(server, test=blank), seed=0)
    assert all(np.isfinite(found).all() for found in scores.inputs.values())
