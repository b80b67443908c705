"""Training on ciphertexts: the same weights as on plaintext, and nobody sees more than stated."""

from __future__ import annotations

import multiprocessing
from multiprocessing.connection import Connection

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from reticent.errors import (
    AuthenticationError,
    BundleError,
    ConfigError,
    DataError,
    EvidenceError,
    InputError,
)
from reticent.inference.ckks.decorrelate import decorrelation
from reticent.inference.ckks.regression import (
    LIMIT,
    Regression,
    RegressionClient,
    RegressionServer,
    fitted_sigmoid,
    signed_rows,
)

TASK = Regression(features=5, records=1100, learning_rate=2.0)  # two ciphertexts


def records() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(TASK.records, TASK.features)) / 2
    slope = np.array([2.0, -1.5, 0.5, 0.0, -2.0])
    return x, (x @ slope + rng.normal(size=len(x)) / 4 > 0).astype(int)


@pytest.fixture(scope="module")
def client() -> RegressionClient:
    return RegressionClient(TASK)


@pytest.fixture(scope="module")
def server(client: RegressionClient) -> RegressionServer:
    made = RegressionServer(TASK, client.public_keys)
    made.load(client.encrypt_records(*records()))
    return made


def test_the_cubic_is_the_best_of_its_kind_within_its_limit() -> None:
    u = np.linspace(-LIMIT, LIMIT, 2001)
    true = 1 / (1 + np.exp(u))
    best, *_ = np.linalg.lstsq(np.stack([u, u**3], axis=1), true - 0.5, rcond=None)
    assert np.abs(fitted_sigmoid(u) - (0.5 + best[0] * u + best[1] * u**3)).max() < 1e-4
    assert np.abs(fitted_sigmoid(u) - true).max() < 0.15


def test_steps_on_ciphertexts_are_steps_on_plaintext(client, server) -> None:
    rows, weights, message = signed_rows(*records()), np.zeros(6), client.start()
    for _ in range(4):
        message = client.refresh(server.step(message))
        weights = TASK.step(rows, weights)
    found = client.weights(server.finish(message))
    assert np.abs(found - weights).max() < 2e-3 * np.abs(weights).max() + 2.0**-9
    assert ((rows @ found) > 0).mean() > 0.9


def descended(task: Regression, rows: np.ndarray, steps: int) -> np.ndarray:
    """Nesterov's iteration on plaintext, as Kim et al. 2018 write it: two sequences."""
    weights = ahead = np.zeros(task.features + 1)
    for step in range(1, steps + 1):
        before, weights = weights, task.step(rows, ahead)
        ahead = weights + task.momentum(step) * (weights - before)
    return ahead


def test_accelerated_steps_are_nesterovs_and_go_further(tmp_path) -> None:
    """The client extrapolates what it can't read; records wait on disk."""
    task = Regression(features=5, records=1100, learning_rate=2.0, accelerated=5)
    client = RegressionClient(task)
    server = RegressionServer(task, client.public_keys)
    server.load(client.encrypt_records(*records()), spool=tmp_path)
    assert len(list(tmp_path.iterdir())) == task.chunks
    message = client.start()
    for _ in range(5):
        message = client.refresh(server.step(message))
    found = client.weights(server.finish(message))
    rows = signed_rows(*records())
    weights = descended(task, rows, 5)
    assert np.abs(found - weights).max() < 2e-3 * np.abs(weights).max() + 2.0**-9
    plain = descended(TASK, rows, 5)
    assert np.abs(found - plain).max() > 0.05 * np.abs(plain).max()

    def loss(w: np.ndarray) -> float:
        return float(np.log1p(np.exp(-rows @ w)).mean())

    assert loss(found) < loss(plain)
    # The last step isn't extrapolated, and there is none after it.
    assert (task.momentum(1), task.momentum(5)) == (0.0, 0.0)
    assert 0.2 < task.momentum(2) < task.momentum(4) < 1
    with pytest.raises(ConfigError, match="at most accelerated=5"):
        task.momentum(6)


def test_a_head_of_three_classes_is_one_regression_a_class_under_one_key() -> None:
    rng = np.random.default_rng(3)
    y = rng.integers(0, 3, 400)
    features = rng.normal(0, 0.4, (400, 5)) + np.eye(3, 5)[y]
    task = Regression(features=5, records=300, learning_rate=4.0, accelerated=6)
    client = RegressionClient(task)
    server = RegressionServer(task, client.public_keys)
    head = []
    for label in range(3):
        server.load(client.encrypt_records(features[:300], y[:300] == label))
        message = client.start()
        for _ in range(6):
            message = client.refresh(server.step(message))
        head.append(client.weights(server.finish(message)))
    weights = np.array(head)
    scores = features[300:] @ weights[:, :-1].T + weights[:, -1]
    rival = LogisticRegression().fit(features[:300], y[:300]).score(features[300:], y[300:])
    assert (scores.argmax(axis=1) == y[300:]).mean() >= rival - 0.04
    assert rival > 0.8


def test_what_the_client_refreshes_is_masked(client, server) -> None:
    """Weights of a few hundred vanish in masks of 2**28; without the mask they stand there."""
    start = client.start()
    seen = [client._opened(server.step(start)) for _ in range(2) if not _forget(server)]
    for values in seen:
        assert 2.0**26 < np.abs(values).mean() < 2.0**28
        assert abs(np.corrcoef(values[:4096], values[4096:])[0, 1]) < 0.1
    assert np.abs(seen[0] - seen[1]).mean() > 2.0**26
    _forget(server)
    bare = client._opened(server.finish(start))
    assert np.abs(bare).max() < 1.0


def _forget(server: RegressionServer) -> None:
    server._restart()


def test_messages_are_of_one_size_whatever_is_in_them(client) -> None:
    x, y = records()
    sizes = {
        len(message)
        for rows, labels in ((x, y), (np.zeros_like(x), 1 - y))
        for message in client.encrypt_records(rows, labels)
    }
    assert len(sizes) == 1
    assert len(client.start()) in sizes


def test_bad_records_and_foreign_messages_are_refused(client, server) -> None:
    x, y = records()
    for rows, labels in ((x[:-1], y), (x, y[:-1]), (x * np.nan, y), (x, y + 1)):
        with pytest.raises(InputError):
            list(client.encrypt_records(rows, labels))
    stranger = RegressionClient(Regression(features=5, records=1100, learning_rate=1.0))
    with pytest.raises(BundleError):
        server.step(stranger.start())
    with pytest.raises(DataError):
        RegressionServer(TASK, client.public_keys).step(client.start())
    with pytest.raises(DataError, match="2 messages"):
        RegressionServer(TASK, client.public_keys).load([])
    with pytest.raises(DataError):
        server.step(client.start()[:-1])
    other = RegressionClient(TASK)
    with pytest.raises(AuthenticationError):
        server.step(other.start())
    _forget(server)
    with pytest.raises(EvidenceError, match="other keys"):
        other.refresh(server.finish(client.start()))
    with pytest.raises(DataError, match="got more"):
        server.load([client.start()] * 3)
    with pytest.raises(ConfigError, match="features"):
        Regression(features=0, records=10)
    with pytest.raises(ConfigError, match="accelerated"):
        Regression(features=1, records=10, accelerated=0)


def _serve(pipe: Connection, task: Regression) -> None:
    """The provider's process: it is sent bytes and sends bytes."""
    server = RegressionServer(task, pipe.recv_bytes())
    server.load(pipe.recv_bytes() for _ in range(task.chunks))
    while True:
        kind, message = pipe.recv_bytes(), pipe.recv_bytes()
        if kind == b"finish":
            pipe.send_bytes(server.finish(message))
            return
        pipe.send_bytes(server.step(message))


@pytest.mark.slow
def test_two_processes_train_as_well_as_scikit_learn() -> None:
    """Within three points on 114 records, where one record is nearly one point."""
    data = load_breast_cancer()
    order = np.random.default_rng(0).permutation(len(data.data))
    train, test = order[:455], order[455:]
    x = decorrelation(data.data[train]).apply(data.data)
    task = Regression(features=30, records=455, learning_rate=8.0, accelerated=12)
    ours, theirs = multiprocessing.Pipe()
    provider = multiprocessing.get_context("spawn").Process(target=_serve, args=(theirs, task))
    provider.start()
    try:
        client = RegressionClient(task)
        ours.send_bytes(client.public_keys)
        for message in client.encrypt_records(x[train], data.target[train]):
            ours.send_bytes(message)
        message = client.start()
        for _ in range(12):
            ours.send_bytes(b"step")
            ours.send_bytes(message)
            message = client.refresh(ours.recv_bytes())
        ours.send_bytes(b"finish")
        ours.send_bytes(message)
        weights = client.weights(ours.recv_bytes())
    finally:
        provider.join(timeout=5)
        provider.kill()
    right = ((x[test] @ weights[:-1] + weights[-1] > 0) == data.target[test]).mean()
    scaled = StandardScaler().fit(data.data[train]).transform(data.data)
    rival = LogisticRegression(max_iter=1000).fit(scaled[train], data.target[train])
    assert right >= rival.score(scaled[test], data.target[test]) - 0.03
    rows = signed_rows(x[train], data.target[train])
    plain = descended(task, rows, 12)
    assert np.abs(weights - plain).max() < 0.01 * np.abs(plain).max()
