"""A one-class network learns from normal records, tells anomalies, and hardens like any other."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

from reticent.data.answers import Answers, utility
from reticent.data.task import Kind, Records
from reticent.errors import DataError
from reticent.inference.split.harden import harden
from reticent.inference.split.release import Code
from reticent.models.networks import Standardise
from reticent.models.one_class import Distance, one_class_network
from reticent.training.one_class import fit_one_class
from reticent.training.plain import Plan, forward

torch.set_num_threads(1)


def records(n: int = 600, *, seed: int = 0, anomalies: bool = True) -> Records:
    """SYNTHETIC (n, 8): normal records lie near a plane, anomalies leave it."""
    rng = np.random.default_rng(seed)
    public = (rng.uniform(size=n) < (0.2 if anomalies else 0.0)).astype(np.int64)
    x = 0.1 * rng.standard_normal((n, 8))
    x[:, :2] += rng.standard_normal((n, 2))
    x[:, 2:] += 2.0 * public[:, None] * rng.choice([-1.0, 1.0], size=(n, 6))
    return Records(x=x.astype(np.float32), public=public, private={}, users=None)


@cache
def trained() -> nn.Sequential:
    train = records()
    torch.manual_seed(0)
    model = one_class_network((8,), standardise=Standardise.fit(train.x), widths=(32, 16), size=8)
    made = fit_one_class(model, train, records(seed=1), plan=Plan(epochs=20)).model
    assert isinstance(made, nn.Sequential)
    return made


def outputs(model: nn.Module, part: Records) -> np.ndarray:
    return forward(model, torch.from_numpy(part.x)).numpy()


def test_it_tells_anomalies_that_it_never_saw() -> None:
    test = records(seed=2)
    assert utility(Kind.ANOMALY, outputs(trained(), test), test.public) > 0.9


def test_the_threshold_lets_the_stated_share_of_normal_records_pass() -> None:
    normal = records(2000, seed=3, anomalies=False)
    alarms = outputs(trained(), normal).argmax(axis=1).mean()
    assert 0.01 < alarms < 0.12


def test_anomalies_take_no_part_in_training() -> None:
    train, held = records(), records(seed=1)
    moved = Records(
        x=np.where(train.public[:, None] == 1, 50.0, train.x).astype(np.float32),
        public=train.public,
        private={},
        users=None,
    )
    torch.manual_seed(0)
    model = one_class_network((8,), widths=(8,), size=4)
    first, second = (
        fit_one_class(model, part, held, plan=Plan(epochs=1)) for part in (train, moved)
    )
    assert first.validation_loss == second.validation_loss


def test_nothing_in_the_network_can_move_the_center() -> None:
    model = one_class_network((3, 16), widths=(8, 8))
    assert not [name for name, _ in model.named_parameters() if name.endswith("bias")]
    assert model(torch.zeros(2, 3, 16)).shape == (2, 2)
    image = one_class_network((1, 12, 10))
    assert image(torch.zeros(2, 1, 12, 10)).shape == (2, 2)


def test_distance_against_values_by_hand() -> None:
    distance = Distance(2)
    distance.center.copy_(torch.tensor([1.0, 0.0]))
    distance.threshold.fill_(4.0)
    distance.scale.fill_(2.0)
    features = torch.tensor([[1.0, 0.0], [1.0, 2.0], [4.0, 0.0]])
    scores = distance(features)
    assert torch.allclose(scores[:, 1] - scores[:, 0], torch.tensor([-2.0, 0.0, 2.5]))


@pytest.mark.parametrize(("codes", "bits"), [(None, 1), (4, 2)])
def test_hardened_it_sends_the_distance_in_a_bit_or_as_many_as_asked(
    codes: int | None, bits: int
) -> None:
    train, test = records(), records(seed=2)
    made = harden(
        trained(),
        train=train,
        validation=records(seed=1),
        answers=Answers.of(Kind.ANOMALY, train.public, classes=2),
        method="adapter_code",
        cut="block1",
        codes=codes,
        max_client_share=1.0,
        options={"labels": "model"},
    )
    release = made.halves.release
    assert isinstance(release, Code)
    assert release.bits == bits
    loss = utility(Kind.ANOMALY, outputs(trained(), test), test.public) - utility(
        Kind.ANOMALY, made.halves.predict(test.x), test.public
    )
    assert loss < 0.05


def test_it_refuses_a_part_without_normal_records_and_other_networks() -> None:
    part = records(20)
    broken = Records(x=part.x, public=np.ones(20, np.int64), private={}, users=None)
    with pytest.raises(DataError, match="normal"):
        fit_one_class(one_class_network((8,)), broken, part)
    with pytest.raises(DataError, match="Distance"):
        fit_one_class(nn.Sequential(nn.Linear(8, 2)), part, part)
