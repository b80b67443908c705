"""Cutting changes nothing: head(encoder(x)) is model(x), wherever the cut."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from reticent.errors import ConfigError, UnsupportedError
from reticent.models.cost import flops, parameters
from reticent.models.cut import cut_at, cut_points
from reticent.models.networks import build

torch.set_num_threads(1)


class Block(nn.Module):
    """A residual block: conv, norm, conv, sum, as in He et al. 2016."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.second(functional.relu(self.norm(self.first(x))))
        return functional.relu(x + inner)


class Residual(nn.Module):
    """Two residual blocks, a functional dropout, a buffer that both halves need."""

    gain: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.early, self.late = Block(4), Block(4)
        self.out = nn.Linear(4, 3)
        self.register_buffer("gain", torch.tensor(1.5))

    def forward(self, x: Tensor) -> Tensor:
        x = self.early(self.gain * self.stem(x))
        x = self.gain * self.late(x)
        x = functional.dropout(x.mean((2, 3)), 0.5, training=self.training)
        logits: Tensor = self.out(x)
        return logits


class Sum(nn.Sequential):
    """A Sequential whose forward is not one child after the other."""

    def forward(self, x: Tensor) -> Tensor:
        total: Tensor = x + super().forward(x)
        return total


class Parts(nn.Module):
    """Has a place where a tuple alone crosses."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        left, right = torch.chunk(self.first(x), 2, dim=1)
        out: Tensor = self.last(left * right)
        return out


class Branching(nn.Module):
    """Control flow that depends on the data: not traceable."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


def agree(model: nn.Module, x: Tensor) -> list[str]:
    """Every cut's name, after checking that its halves make the model."""
    model.eval()
    points = cut_points(model, x[:1])
    for point in points:
        encoder, head = cut_at(model, point.name)
        with torch.no_grad():
            features = encoder.eval()(x)
            torch.testing.assert_close(head.eval()(features), model(x))
        assert tuple(features.shape[1:]) == point.feature_shape
    return [point.name for point in points]


SHARED = (nn.ReLU(), nn.Tanh())


@st.composite
def chains(draw: st.DrawFn) -> nn.Sequential:
    """Linear layers, norms and activations, some of them one object used twice."""
    size, layers = 5, []
    for _ in range(draw(st.integers(1, 4))):
        width = draw(st.integers(1, 7))
        layers.append(nn.Linear(size, width))
        size = width
        extra = draw(st.sampled_from(["none", "relu", "tanh", "norm", "nested"]))
        if extra in ("relu", "tanh"):
            layers.append(SHARED[extra == "tanh"])
        elif extra == "norm":
            layers.append(nn.BatchNorm1d(size))
        elif extra == "nested":
            layers.append(nn.Sequential(nn.Linear(size, size), SHARED[0]))
    return nn.Sequential(*layers, nn.Linear(size, 3))


@given(chains(), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_any_chain_can_be_cut_between_any_two_children(model: nn.Sequential, seed: int) -> None:
    x = torch.randn(4, 5, generator=torch.Generator().manual_seed(seed))
    assert agree(model, x) == [str(index) for index in range(len(model) - 1)]


def test_a_layer_used_twice_is_run_twice() -> None:
    act = nn.ReLU()
    model = nn.Sequential(nn.Linear(5, 4), act, nn.Linear(4, 4), act, nn.Linear(4, 2))
    assert agree(model, torch.randn(6, 5)) == ["0", "1", "2", "3"]


def test_a_residual_network_is_cut_between_its_blocks_only() -> None:
    torch.manual_seed(0)
    model = Residual()
    x = torch.randn(3, 1, 6, 6)
    names = agree(model, x)
    assert "relu_1" in names
    assert not [name for name in names if "first" in name or "second" in name or name == "relu"]


def test_the_halves_of_a_traced_model_hold_only_their_own_weights() -> None:
    model = Residual()
    points = {point.name: point for point in cut_points(model, torch.randn(1, 1, 6, 6))}
    encoder, head = cut_at(model, "relu_1")
    assert parameters(encoder) + parameters(head) == parameters(model)
    assert points["relu_1"].params_share == parameters(encoder) / parameters(model)
    assert not [name for name, _ in encoder.named_modules() if "late" in name]
    assert not [name for name, _ in head.named_modules() if "early" in name]


def test_functional_dropout_of_a_model_in_training_mode_stays_off_after_the_cut() -> None:
    model = Residual().train()
    _, head = cut_at(model, "relu_1")
    features = torch.randn(2, 4, 6, 6)
    head.eval()
    assert torch.equal(head(features), head(features))
    assert model.training


def test_a_sequential_with_its_own_forward_is_not_taken_for_a_chain() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(Sum(nn.Linear(4, 4), nn.ReLU()), nn.Linear(4, 2))
    assert agree(model, torch.randn(5, 4)) == ["0"]
    alone = Sum(nn.Linear(4, 4), nn.ReLU())
    assert agree(alone, torch.randn(5, 4)) == []


def test_a_tuple_is_no_feature() -> None:
    names = agree(Parts(), torch.randn(3, 4))
    assert "chunk" not in names
    assert "first" in names


@pytest.mark.parametrize(
    ("name", "shape"), [("mlp", (7,)), ("convnet1d", (3, 32)), ("convnet2d", (1, 16, 16))]
)
def test_reference_networks_can_be_cut_at_every_block(name: str, shape: tuple[int, ...]) -> None:
    model = build(name, shape=shape, outputs=4)
    points = cut_points(model.eval(), torch.randn(1, *shape))
    assert agree(model, torch.randn(3, *shape)) == [point.name for point in points]
    shares = [point.flops_share for point in points]
    assert shares == sorted(shares)
    assert 0 <= shares[0] < shares[-1] < 1
    assert [point.index for point in points] == list(range(len(points)))


def test_cutting_copies() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    before = model[0].weight.detach().clone()
    encoder, _ = cut_at(model, "0")
    with torch.no_grad():
        next(encoder.parameters()).zero_()
    assert torch.equal(model[0].weight, before)


def test_an_unknown_cut_is_refused_with_the_nearest_name() -> None:
    model = build("convnet1d", shape=(3, 32), outputs=4)
    with pytest.raises(ConfigError, match=r"cut='conv22'.*Nearest: \['conv2'"):
        cut_at(model, "conv22")
    with pytest.raises(ConfigError, match="output"):
        cut_at(model, "output")


def test_a_model_that_cannot_be_traced_is_refused_with_a_way_out() -> None:
    with pytest.raises(UnsupportedError, match=r"nn\.Sequential of blocks"):
        cut_at(Branching(), "x")


def test_a_model_without_products_has_no_cost_to_share() -> None:
    with pytest.raises(UnsupportedError, match="no matrix product"):
        cut_points(nn.Sequential(nn.ReLU(), nn.Tanh()), torch.randn(1, 3))


def test_shares_are_of_the_whole_model() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 2))
    (point,) = cut_points(model, torch.randn(1, 4))
    assert point.flops_share == pytest.approx(24 / 36)
    assert point.params_share == pytest.approx(30 / 44)
    assert flops(model, torch.randn(1, 4)) == 2 * 36
