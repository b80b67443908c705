"""Training a stack is training each of its models alone."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from oracle import loss, train_alone
from torch import Tensor, nn

from reticent.attacks.shadow import choice, layers
from reticent.attacks.shadow.choice import stack
from reticent.attacks.shadow.dense import DenseStack
from reticent.attacks.shadow.masks import held_out_rows, independent_masks, rows_of
from reticent.attacks.shadow.recipe import TrainingRecipe
from reticent.attacks.shadow.stack import (
    ChannelsLastStack,
    ImagesLoop,
    LayerStack,
    LoopStack,
    Stack,
    VmapStack,
)
from reticent.attacks.shadow.training import (
    chunk_size,
    fresh,
    log_probabilities,
    train_models,
    train_stack,
)
from reticent.attacks.spec import Labelled
from reticent.errors import ConfigError, DataError
from reticent.models import products
from reticent.models.networks import Standardise
from reticent.models.patches import patches
from reticent.random import seeded

SEED = 5


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.relu(self.inner(x))


class OwnScale(nn.Module):
    """A layer with weights of its own, as no stacked layer knows it."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(8))

    def reset_parameters(self) -> None:
        nn.init.normal_(self.scale)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.GRU(4, 5, batch_first=True)
        self.out = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.inner(x.view(len(x), 2, 4))[0][:, -1]
        return self.out(hidden)


class MeanOverRecords(nn.Module):
    """Mixes the records of a batch, so that a stack without care would mix models."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.out(x - x.mean(dim=0))
        return found


class View(nn.Module):
    """Flattens by `view`, which only one memory format allows."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(2, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.inner(x)
        return found.view(len(x), -1)


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(6, 4)
        self.out = nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        vectors: Tensor = self.table(x.abs().long().clamp(max=5))
        return self.out(vectors.flatten(1))


def images(*layers: nn.Module, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Unflatten(1, (2, 2, 2)), *layers, nn.Flatten(), nn.Linear(outputs, 3))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], type[Stack]]] = {
    "linear": (lambda: nn.Linear(8, 3), DenseStack),
    "mlp": (lambda: nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)), DenseStack),
    "no bias": (lambda: nn.Linear(8, 3, bias=False), DenseStack),
    "one output": (lambda: nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 1)), DenseStack),
    "nested": (
        lambda: nn.Sequential(
            nn.Sequential(Standardise(torch.zeros(8), torch.full((8,), 2.0)), nn.Flatten()),
            nn.Sequential(nn.Linear(8, 6), nn.Sigmoid(), nn.Linear(6, 5), nn.ReLU()),
            nn.Linear(5, 4),
            nn.Linear(4, 3),
        ),
        DenseStack,
    ),
    "activation last": (lambda: nn.Sequential(nn.Linear(8, 3), nn.ReLU()), LayerStack),
    "dropout of nothing": (lambda: nn.Sequential(nn.Dropout(0.0), nn.Linear(8, 3)), LayerStack),
    "residual": (lambda: nn.Sequential(Residual(), Residual(), nn.Linear(8, 3)), LayerStack),
    "batch norm": (
        lambda: nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)),
        LayerStack,
    ),
    "averaging batch norm": (
        lambda: nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6, momentum=None), nn.Linear(6, 3)),
        LayerStack,
    ),
    "layer norm": (lambda: nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 3)), LayerStack),
    "convolution": (
        lambda: images(
            nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), outputs=4
        ),
        ChannelsLastStack,
    ),
    "two convolutions": (
        lambda: images(
            nn.Conv2d(2, 4, (1, 2), padding=(1, 0), stride=(2, 1), bias=False),
            nn.Tanh(),
            nn.Conv2d(4, 3, 2, padding=1, dilation=(1, 2)),
            nn.AvgPool2d((2, 1)),
            outputs=3,
        ),
        ChannelsLastStack,
    ),
    "wide convolution": (
        lambda: images(nn.Conv2d(2, 3, 5, padding="same"), outputs=12),
        ChannelsLastStack,
    ),
    "grouped convolution": (
        lambda: images(nn.Conv2d(2, 4, 1, groups=2), nn.GroupNorm(2, 4), outputs=16),
        ChannelsLastStack,
    ),
    "a view of an image": (
        lambda: nn.Sequential(nn.Unflatten(1, (2, 2, 2)), View(), nn.Linear(12, 3)),
        LayerStack,
    ),
    "series": (
        lambda: nn.Sequential(
            nn.Unflatten(1, (2, 4)), nn.Conv1d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6, 3)
        ),
        LayerStack,
    ),
    "words": (Words, LayerStack),
    "own layer": (lambda: nn.Sequential(OwnScale(), nn.Linear(8, 3)), VmapStack),
    "mean over records": (MeanOverRecords, VmapStack),
    "recurrent": (Recurrent, LoopStack),
}

RECIPES = {
    "sgd": TrainingRecipe(
        size=37, epochs=3, batch_size=12, optimiser="sgd", learning_rate=0.1, momentum=0.9
    ),
    "adam": TrainingRecipe(size=37, epochs=3, batch_size=16, optimiser="adam", weight_decay=0.01),
    "adamw": TrainingRecipe(
        size=37, epochs=3, batch_size=16, learning_rate=0.01, weight_decay=0.1, schedule="constant"
    ),
    "best": TrainingRecipe(
        size=37, epochs=6, batch_size=16, learning_rate=0.1, keep="best", held_out=20
    ),
}


def material(rows: int = 90) -> tuple[Tensor, Tensor]:
    source = seeded(SEED, 1)
    x = source.normal(size=(rows, 8)).astype(np.float32)
    return torch.from_numpy(x), torch.from_numpy((np.abs(x[:, 0]) > 1).astype(np.int64))


def both(
    architecture: nn.Module, recipe: TrainingRecipe, *, count: int = 3, first: int = 0
) -> tuple[Stack, list[nn.Module], Tensor]:
    x, y = material()
    member = independent_masks(count, pool=len(x), size=recipe.size, seed=SEED)
    rows = rows_of(member)
    held_out = held_out_rows(member, size=recipe.held_out, seed=SEED)
    made = train_stack(
        architecture, recipe, x, y, rows=rows, held_out=held_out, seed=SEED, first=first
    )
    alone = [
        train_alone(
            fresh(architecture, seed=SEED, number=first + i),
            recipe, x, y, rows[i], held_out[i], seed=SEED, number=first + i,
        )
        for i in range(count)
    ]  # fmt: skip
    return made, alone, x


def assert_the_same(made: Stack, alone: list[nn.Module], x: Tensor) -> None:
    for found, expected in zip(made.models(), alone, strict=True):
        for name, value in expected.state_dict().items():
            torch.testing.assert_close(found.state_dict()[name], value, rtol=1e-5, atol=1e-5)
    answers = log_probabilities(made, x)
    for own, expected in zip(answers, alone, strict=True):
        with torch.no_grad():
            logits = expected(x).double()
        if logits.shape[1] == 1:
            logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
        assert np.allclose(own, torch.log_softmax(logits, 1).numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_stack_trains_each_network_as_alone(name: str) -> None:
    make, kind = NETWORKS[name]
    made, alone, x = both(make(), RECIPES["sgd"])
    assert type(made) is kind
    assert_the_same(made, alone, x)


@pytest.mark.parametrize("large", [0, 10**9], ids=["in turn", "grouped"])
def test_convolutions_in_turn_are_those_side_by_side(
    large: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layers, "LARGE", large)
    monkeypatch.setattr(layers, "_FEW", 0)
    for name in ("convolution", "two convolutions", "wide convolution", "grouped convolution"):
        assert_the_same(*both(NETWORKS[name][0](), RECIPES["sgd"]))


def test_convolutions_of_many_numbers_train_model_by_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(choice, "LARGE", 1)
    for name in ("convolution", "two convolutions", "grouped convolution"):
        made, alone, x = both(NETWORKS[name][0](), RECIPES["sgd"])
        assert type(made) is ImagesLoop
        assert_the_same(made, alone, x)
    made, _, _ = both(NETWORKS["mlp"][0](), RECIPES["sgd"])
    assert type(made) is DenseStack


def test_pooling_before_relu_gives_the_same_answers_and_gradients() -> None:
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2, padding=1, ceil_mode=True),
        nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU(inplace=True), nn.MaxPool2d(3, stride=1)),
        nn.Flatten(), nn.Linear(36, 3),
    )  # fmt: skip
    models = [fresh(network, seed=1, number=i) for i in range(2)]
    x = torch.randn(2, 6, 1, 14, 14, generator=torch.Generator().manual_seed(0))
    y = torch.ones(2, 6).long()
    fast, slow = ImagesLoop(models), LoopStack(models)
    kinds = [type(part) for part in fast._models[0]]
    assert kinds[1:3] == [nn.MaxPool2d, nn.ReLU]
    torch.testing.assert_close(fast(x), slow(x))
    for made in (fast, slow):
        made.set_gradients(x, y)
    for found, expected in zip(fast.parameters, slow.parameters, strict=True):
        torch.testing.assert_close(found.grad, expected.grad)
    assert set(fast.state(0)) == set(models[0].state_dict())


@pytest.mark.skipif(not products._has_onednn(), reason="no AVX-512 here")
def test_dense_stacks_by_the_other_library_train_as_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "_LARGE", 0)
    for name in ("linear", "mlp", "no bias", "one output", "nested"):
        assert_the_same(*both(NETWORKS[name][0](), RECIPES["sgd"]))


def test_patches_are_what_unfold_gives() -> None:
    x = torch.randn(3, 2, 7, 6, generator=torch.Generator().manual_seed(0))
    for options in (((1, 1), (0, 0), (1, 1)), ((2, 1), (1, 2), (1, 2)), ((1, 3), (2, 0), (2, 1))):
        stride, padding, dilation = options
        found, sides = patches(x, (2, 3), stride, padding, dilation)
        expected = nn.functional.unfold(x, (2, 3), dilation, padding, stride)
        assert torch.equal(found, expected)
        assert sides[0] * sides[1] == expected.shape[2]


def test_chunks_shrink_with_weights_and_with_what_lies_between_layers() -> None:
    recipe, few = TrainingRecipe(size=1000, batch_size=64), torch.zeros(2, 8)
    tiny = chunk_size(nn.Linear(8, 2), recipe, few, seed=0)
    heavy = chunk_size(nn.Sequential(nn.Linear(8, 20_000)), recipe, few, seed=0)
    image = nn.Sequential(nn.Unflatten(1, (2, 2, 2)), nn.Conv2d(2, 500, 1), nn.Upsample((90, 90)))
    assert (tiny, heavy, chunk_size(image, recipe, few, seed=0)) == (64, 4, 1)


def test_models_themselves_are_given_where_weights_are_attacked() -> None:
    x, y = material()
    member = independent_masks(5, pool=len(x), size=37, seed=SEED)
    data = Labelled(x=x.numpy(), y=y.numpy())
    network = NETWORKS["mlp"][0]()
    given = list(train_models(network, RECIPES["sgd"], data, member, seed=SEED))
    made, _, _ = both(network, RECIPES["sgd"], count=5)
    for one, other in zip(given, made.models(), strict=True):
        assert not one.training
        torch.testing.assert_close(one.state_dict(), other.state_dict())


@pytest.mark.parametrize("name", RECIPES)
def test_a_stack_follows_each_recipe_as_alone(name: str) -> None:
    # No batch norm here: it makes the gradient of the bias before it 0 up to rounding, which Adam
    # blows up to full steps in either direction.
    made, alone, x = both(NETWORKS["mlp"][0](), RECIPES[name], first=7)
    assert_the_same(made, alone, x)


def test_the_best_epoch_is_not_always_the_last() -> None:
    # Otherwise the comparison above would hold for a trainer that ignores `keep`.
    recipe = RECIPES["best"]
    last = TrainingRecipe(size=37, epochs=6, batch_size=16, learning_rate=0.1)
    kept, _, x = both(NETWORKS["mlp"][0](), recipe)
    ended, _, _ = both(NETWORKS["mlp"][0](), last)
    assert not np.allclose(log_probabilities(kept, x), log_probabilities(ended, x), atol=1e-3)


@pytest.mark.parametrize("kind", [DenseStack, LayerStack, VmapStack, LoopStack])
def test_the_gradients_of_each_kind_are_those_of_each_model(kind: type[Stack]) -> None:
    models = [fresh(NETWORKS["mlp"][0](), seed=1, number=i) for i in range(3)]
    x, y = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0)), torch.ones(3, 5).long()
    made = kind(models)
    made.set_gradients(x, y)
    torch.optim.SGD(made.parameters, lr=1.0).step()
    for index, model in enumerate(models):
        loss(model(x[index]), y[index]).backward()
        torch.optim.SGD(model.parameters(), lr=1.0).step()
        for name, value in model.state_dict().items():
            torch.testing.assert_close(made.state(index)[name], value)


@pytest.mark.parametrize("kind", [VmapStack, LoopStack])
def test_every_kind_of_stack_answers_alike(kind: type[Stack]) -> None:
    models = [fresh(NETWORKS["batch norm"][0](), seed=1, number=i) for i in range(3)]
    own = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0))
    for mode in (True, False):
        fast, slow = LayerStack(models), kind(models)
        fast.train(mode)
        slow.train(mode)
        torch.testing.assert_close(fast(own), slow(own))


def test_dropout_differs_between_models_and_rests_in_evaluation() -> None:
    network = nn.Sequential(nn.Linear(8, 64), nn.Dropout(0.5))
    same = [fresh(network, seed=1, number=0) for _ in range(2)]
    x = material()[0][:4]
    made = stack(same, x)
    own = torch.stack([x, x])
    made.train(True)
    assert not torch.equal(*made(own))
    made.train(False)
    assert torch.equal(*made(own))


def test_models_start_apart_and_frozen_layers_stay() -> None:
    network = nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 3))
    network[0].requires_grad_(False)
    before = network[0].weight.clone()
    made, _, _ = both(network, RECIPES["sgd"])
    first, second, _ = made.models()
    assert torch.equal(first[0].weight, before)
    assert not torch.equal(first[1].weight, second[1].weight)


def test_the_target_s_own_weights_are_never_a_start() -> None:
    trained = nn.Sequential(nn.Linear(8, 3), nn.BatchNorm1d(3))
    nn.init.constant_(trained[0].weight, 7.0)
    nn.init.constant_(trained[1].running_mean, 7.0)
    made = fresh(trained, seed=0, number=0)
    assert made[0].weight.abs().max() < 1
    assert made[1].running_mean.abs().max() == 0
    assert torch.equal(made[0].weight, fresh(trained, seed=0, number=0)[0].weight)

    class Closed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

    with pytest.raises(ConfigError, match="reset_parameters in the layer 'inner'"):
        fresh(nn.Sequential(OrderedDict(inner=Closed())), seed=0, number=0)


def test_a_function_makes_models_with_its_own_start() -> None:
    def make() -> nn.Module:
        layer = nn.Linear(8, 3)
        nn.init.orthogonal_(layer.weight)
        return layer

    made = fresh(make, seed=0, number=0).weight.detach()
    torch.testing.assert_close(made @ made.T, torch.eye(3))
    with pytest.raises(ConfigError, match="makes a network"):
        fresh(lambda: "no network", seed=0, number=0)  # type: ignore[arg-type, return-value]


def test_pytorchs_own_generator_is_left_as_it_was() -> None:
    network = NETWORKS["mlp"][0]()
    before = torch.random.get_rng_state()
    both(network, RECIPES["sgd"])
    assert torch.equal(before, torch.random.get_rng_state())


def test_divergence_is_refused() -> None:
    recipe: Any = TrainingRecipe(size=37, epochs=9, optimiser="sgd", learning_rate=1e30)
    with pytest.raises(DataError, match="Expected finite weights"):
        both(nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 3)), recipe)
