"""Records found by search: exact on a smooth network, recognisable on one with kinks."""

import pytest
import torch
from torch import nn

from reticent.attacks.reconstruction.gradient_matching import GradientMatching, total_variation
from reticent.attacks.reconstruction.gradients import Update
from reticent.attacks.target import Victim
from reticent.audit.similarity import psnr
from reticent.data.embedded import digits
from reticent.errors import DataError, UnsupportedError

TASK = digits(public="digit")


def convolutional(activation: type[nn.Module]) -> nn.Module:
    torch.manual_seed(5)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        activation(),
        nn.Conv2d(8, 8, 3, padding=1, stride=2),
        activation(),
        nn.Flatten(),
        nn.Linear(128, 10),
    ).eval()


def attack(attack: GradientMatching, activation: type[nn.Module], rows: list[int]):
    target = Victim.of_module(convolutional(activation), sample=TASK.x).at_weights()
    gradients = target.gradients(TASK.x[rows], TASK.public[rows])
    update = Update(gradients=gradients, batch=len(rows))
    return attack.fit(target, seed=1).score(target, [update])[0]


@pytest.mark.parametrize("row", [0, 700])
def test_a_smooth_network_gives_its_record_at_sixty_decibels(row: int) -> None:
    found = attack(GradientMatching(), nn.Sigmoid, [row])
    assert psnr(found.x, TASK.x[[row]], data_range=1.0)[0] > 60
    assert found.y.tolist() == [TASK.public[row]]
    assert found.mismatch < 1e-10


def test_two_records_of_one_gradient_are_both_found() -> None:
    rows = [0, 700]
    found = attack(GradientMatching(), nn.Sigmoid, rows)
    apart = found.x[:, None] - TASK.x[rows][None]
    assert (apart**2).mean(axis=(2, 3, 4)).min(axis=0).max() < 1e-6


def test_cosine_with_total_variation_gets_a_picture_out_of_a_relu_network() -> None:
    found = attack(GradientMatching(objective="cosine", starts=1), nn.ReLU, [0])
    mean = TASK.x[TASK.public == TASK.public[0]].mean(axis=0)[None]
    reached, floor = (psnr(x, TASK.x[[0]], data_range=1.0)[0] for x in (found.x, mean))
    assert reached > max(20, floor + 5)
    assert found.x.min() >= 0
    assert found.x.max() <= 1


def test_the_gradient_of_another_record_does_not_give_this_one() -> None:
    found = attack(GradientMatching(), nn.Sigmoid, [3])
    assert psnr(found.x, TASK.x[[0]], data_range=1.0)[0] < 20


def test_total_variation_by_hand() -> None:
    image = torch.tensor([[[[0.0, 1.0], [0.0, 3.0]]]])
    assert float(total_variation(image)) == pytest.approx((0 + 2) / 2 + (1 + 3) / 2)
    assert float(total_variation(torch.ones(3, 4))) == 0


def test_what_is_missing_is_named() -> None:
    target = Victim.of_module(convolutional(nn.ReLU), sample=TASK.x).at_weights()
    given = target.gradients(TASK.x[:1], TASK.public[:1])
    fitted = GradientMatching().fit(target)
    partial = {name: part for name, part in given.items() if name != "0.weight"}
    with pytest.raises(DataError, match=r"0\.weight"):
        fitted.score(target, [Update(gradients=partial)])
    headless = {name: part for name, part in given.items() if name != "5.bias"}
    with pytest.raises(UnsupportedError, match="bias"):
        fitted.score(target, [Update(gradients=headless)])
