"""Signatures that neuron order can't change, masks with the stated shares, and what they tell."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from reticent.attacks.property_inference.attack import fit_property
from reticent.attacks.property_inference.deep_sets import deep_sets_posterior, fit_deep_sets
from reticent.attacks.property_inference.shadows import Models, property_masks, train
from reticent.attacks.property_inference.signatures import (
    answer_signature,
    quantile_signature,
    read_layers,
    weight_signature,
)
from reticent.attacks.shadow.recipe import TrainingRecipe
from reticent.attacks.spec import Labelled
from reticent.errors import ConfigError, DataError, UnsupportedError


def network(seed: int) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 4), nn.ReLU(), nn.Linear(4, 3)
        ).eval()


def permuted(net: nn.Sequential) -> nn.Sequential:
    """The same function with the neurons of both hidden layers in another order."""
    made = network(0)
    made.load_state_dict(net.state_dict())
    with torch.no_grad():
        for layer, after in ((0, 2), (2, 4)):
            order = torch.randperm(made[layer].out_features)
            made[layer].weight.copy_(made[layer].weight[order])
            made[layer].bias.copy_(made[layer].bias[order])
            made[after].weight.copy_(made[after].weight[:, order])
    return made


def test_the_order_of_neurons_changes_no_signature() -> None:
    net = network(1)
    other = permuted(net)
    x = torch.randn(6, 5)
    torch.testing.assert_close(net(x), other(x))
    assert not torch.equal(net[0].weight, other[0].weight)
    first, second = read_layers(net), read_layers(other)
    np.testing.assert_allclose(weight_signature(first), weight_signature(second), atol=1e-6)
    many = tuple(
        (np.concatenate([w, w + 1, w - 1, w * 2]), np.concatenate([b, b, b, b])) for w, b in first
    )
    fitted, scales = fit_deep_sets(many, np.array([0, 1, 0, 1]), hypotheses=2, seed=0)
    np.testing.assert_allclose(
        deep_sets_posterior(fitted, scales, first),
        deep_sets_posterior(fitted, scales, second),
        atol=1e-5,
    )


def test_products_of_weights_are_the_linear_networks_own_map() -> None:
    net = network(2)
    signature = weight_signature(read_layers(net))[0]
    linear = (net[4].weight @ net[2].weight @ net[0].weight).detach().numpy()
    shift = net[4].weight @ (net[2].weight @ net[0].bias + net[2].bias) + net[4].bias
    np.testing.assert_allclose(signature[:15], linear.reshape(-1), atol=1e-6)
    np.testing.assert_allclose(signature[15:18], shift.detach().numpy(), atol=1e-6)


def test_convolutions_are_read_and_what_is_no_chain_is_refused() -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2))
    layers = read_layers(net)
    assert [weight.shape for weight, _bias in layers] == [(1, 4, 1), (1, 2, 4)]
    with pytest.raises(UnsupportedError, match="Embedding"):
        read_layers(nn.Sequential(nn.Embedding(2, 2), nn.Linear(2, 2)))
    with pytest.raises(UnsupportedError, match="chain"):
        read_layers(nn.Sequential(nn.Linear(2, 4), nn.Linear(3, 2)))
    with pytest.raises(UnsupportedError, match="without"):
        read_layers(nn.Sequential(nn.ReLU()))


def test_a_batch_normalisation_is_folded_into_the_layer_before_it() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
    net(torch.randn(64, 3) * 3 + 1)
    net.eval()
    ((weight, bias), _last) = read_layers(net)
    x = torch.randn(5, 3)
    made = x.numpy() @ weight[0].T + bias[0]
    np.testing.assert_allclose(made, net[:2](x).detach().numpy(), atol=1e-4)


def test_answers_become_log_odds() -> None:
    probabilities = np.array([[[0.5, 0.5], [0.2, 0.8]]])
    np.testing.assert_allclose(answer_signature(np.log(probabilities)), [[0.0, np.log(4)]])
    sure = np.log(np.array([[[1 - 1e-30, 1e-30]]]) + 1e-300)
    assert np.isfinite(answer_signature(sure)).all()
    assert quantile_signature(np.log(probabilities)).shape == (1, 22)


def test_training_sets_have_the_stated_shares_and_stay_on_their_side() -> None:
    rng = np.random.default_rng(0)
    group, allowed = rng.random(500) < 0.4, rng.random(500) < 0.6
    masks, truth = property_masks(
        group, (0.1, 0.5, 0.3), count=4, size=100, allowed=allowed, seed=0
    )
    assert masks.shape == (12, 500)
    assert not masks[:, ~allowed].any()
    np.testing.assert_array_equal(masks.sum(axis=1), 100)
    expected = np.array([10, 50, 30])[truth]
    np.testing.assert_array_equal((masks & group).sum(axis=1), expected)
    assert np.bincount(truth).tolist() == [4, 4, 4]
    with pytest.raises(DataError, match="rows of the group"):
        property_masks(group, (0.1, 0.9), count=1, size=400, allowed=allowed, seed=0)
    with pytest.raises(ConfigError, match="different shares"):
        property_masks(group, (0.5, 0.5), count=1, size=10, allowed=allowed, seed=0)


def test_estimators_serve_as_shadows_too() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(80, 3)).astype(np.float32)
    data = Labelled(x=x, y=(x[:, 0] > 0).astype(np.int64))
    masks = np.zeros((2, 80), dtype=bool)
    masks[0, :40] = masks[1, 40:] = True
    made = train(
        LogisticRegression(), TrainingRecipe(size=40), data, masks, x[:10],
        classes=2, weights=False, seed=0,
    )  # fmt: skip
    oracle = LogisticRegression().fit(x[40:], data.y[40:]).predict_log_proba(x[:10])
    np.testing.assert_allclose(made.answers[1], oracle, atol=1e-5)


def test_a_shift_in_answers_is_learnt_and_noise_is_not() -> None:
    rng = np.random.default_rng(2)
    truth = np.tile([0, 1], 60)

    def models(shift: float) -> Models:
        logit = rng.normal(size=(120, 30)) + shift * (truth[:, None] - 0.5)
        both = np.stack([np.zeros_like(logit), logit], axis=2)
        return Models(answers=both - np.log(np.exp(both).sum(axis=2, keepdims=True)))

    for shift, low, high in ((1.0, 0.9, 1.0), (0.0, 0.35, 0.65)):
        fitted = fit_property(models(shift), truth, hypotheses=2, seed=0)
        hits = fitted.score(models(shift)).argmax(axis=1) == truth
        assert low <= hits.mean() <= high
    with pytest.raises(DataError, match="12 shadow"):
        fit_property(models(1.0).take(np.arange(8)), truth[:8], hypotheses=2, seed=0)


def test_sets_of_neurons_learn_what_only_weights_show() -> None:
    """Hypothesis 1 scales one input's weights into permuted hidden neurons."""
    rng = np.random.default_rng(3)
    truth = np.tile([0, 1], 60)

    def draw() -> tuple[tuple[np.ndarray, np.ndarray], ...]:
        first = rng.normal(size=(120, 8, 5))
        first[:, :, 2] *= np.where(truth == 1, 2.5, 1.0)[:, None]
        return (
            (first, rng.normal(size=(120, 8))),
            (rng.normal(size=(120, 2, 8)), np.zeros((120, 2))),
        )

    net, scales = fit_deep_sets(draw(), truth, hypotheses=2, seed=0)
    hits = deep_sets_posterior(net, scales, draw()).argmax(axis=1) == truth
    assert hits.mean() > 0.8
