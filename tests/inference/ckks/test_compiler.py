"""One call from a model to a plan: what it chooses, prints and refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import nn

from reticent.errors import ConfigError, UnsupportedError
from reticent.inference.ckks.batch_plan import BatchPlan
from reticent.inference.ckks.client import EncryptedClient
from reticent.inference.ckks.compiler import compile
from reticent.inference.ckks.plan import Plan
from reticent.inference.ckks.server import EncryptedServer


@pytest.fixture(scope="module")
def digits():
    data = load_digits()
    x, y = torch.from_numpy(data.data / 16).float(), torch.from_numpy(data.target)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10))
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(120):
        optimiser.zero_grad()
        nn.functional.cross_entropy(network(x[:1000]), y[:1000]).backward()
        optimiser.step()
    return network, x, y


def test_a_network_is_fitted_planned_priced_and_answers(digits):
    network, x, y = digits
    said = []
    made = compile(
        network,
        x[:1000],
        goal="upload",
        held_out=x[1000:1400],
        labels=y[1000:1400],
        tolerance=0.03,
        report=said.append,
    )
    assert isinstance(made, Plan)
    text = "\n".join(said)
    for figure in (
        "levels",
        "ring",
        "rotations (at least",
        "keys",
        "upload",
        "reply",
        "certified on",
    ):
        assert figure in text, figure
    assert "instead, goal='throughput': batch of" in text
    assert "not ring 4096: layer" in text
    client = EncryptedClient(made.for_client())
    server = EncryptedServer(made, client.public_keys)
    found = [
        client.decrypt(server.answer(client.encrypt(row.numpy()))).argmax() for row in x[1400:1420]
    ]
    assert (np.array(found) == y[1400:1420].numpy()).mean() >= 0.85


def test_an_estimator_is_compiled_for_batches(digits):
    _, x, y = digits
    model = LogisticRegression(max_iter=500).fit(x[:1000].numpy(), y[:1000].numpy())
    said = []
    made = compile(model, x[:1000].numpy(), goal="throughput", report=said.append)
    assert isinstance(made, BatchPlan)
    assert "records a second when full" in said[0]


def test_what_can_not_be_compiled_is_named(digits):
    network, x, _ = digits
    with pytest.raises(ConfigError, match="goal='speed'"):
        compile(network, x, goal="speed")
    with pytest.raises(UnsupportedError, match="security=192"):
        compile(network, x, security=192)
    with pytest.raises(UnsupportedError, match=r"ReLU|polynomial"):
        compile(network, x[:10])


def test_a_layer_that_needs_a_level_too_many_is_named():
    layers = []
    for index in range(24):
        layers += [nn.Linear(6, 6), Square()] if index else [nn.Linear(4, 6), Square()]
    torch.manual_seed(0)
    network = nn.Sequential(*layers, nn.Linear(6, 2))
    with pytest.raises(UnsupportedError, match=r"layer '\d+' needs one more level, .*of 881 bits"):
        compile(network, torch.rand(20, 4) / 10)


class Square(nn.Module):
    def forward(self, x):
        return x * x
