"""The sealed split on real sets beside the plain channel, the split, and whole networks encrypted.

These sets' convolutional networks need nine to eleven products in a row, which takes larger keys
than a client would send; so what is encrypted whole is a network of one hidden layer with squares,
trained on the same records. A linear head on the sealed split's features stands beside. Per query,
in one process and thread: what the client and the server compute, what crosses, and how often the
answer is that of the deployed model. RETICENT_DATA names the folder of the sets.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mnist import Squared
from rows import Row, row
from sklearn.linear_model import LogisticRegression

sys.path.insert(0, str(Path(__file__).parents[1] / "split"))

from sets import recipe

from reticent.errors import GateError, UnsupportedError
from reticent.inference.ckks.client import EncryptedClient
from reticent.inference.ckks.estimators import from_estimator
from reticent.inference.ckks.graph_import import to_program
from reticent.inference.ckks.plan import plan
from reticent.inference.ckks.program import Program
from reticent.inference.ckks.server import EncryptedServer
from reticent.inference.deployed import local_pair
from reticent.inference.export import export
from reticent.inference.graph import Graph
from reticent.inference.split.harden import Hardened
from reticent.inference.split.publish import publish
from reticent.pipeline.stage import Stage, by_regime, prepare
from reticent.pipeline.tasks import load_task

SETS = ("phone activity", "faces: pose", "spoken digits")
METHODS: dict[str, dict[str, Any]] = {
    "split": {"method": "adapter_code"},
    "sealed": {"method": "sealed"},
    "sealed, masked only": {"method": "sealed", "options": {"flooding_bits": 0}},
    "sealed, center loss": {"method": "sealed", "options": {"encoder": "center"}},
}
_QUERIES = 1000


def rows(*, quick: bool = False) -> Iterator[Row]:
    """Every set by every method; what can't be encrypted is left out with its reason."""
    for name in SETS[:1] if quick else SETS:
        asked = recipe(name, seed=0, seeds=1, quick=True)
        task = load_task(asked)
        stage = prepare(asked, task, next(iter(by_regime(asked, task))), report=_say)
        plain = _plain(stage)
        x = stage.records("test").x
        says: dict[str, Any] = {"unit": "ms", "n": _QUERIES}
        case = f"sealed/{name}/plain"
        yield row(case, "server CPU per query", plain, None, "none", **says)
        bytes_ = float(x[0].nbytes)
        yield row(case, "request", bytes_, None, "none", unit="bytes", n=1)
        for label, changes in METHODS.items():
            try:
                made = stage.harden(asked, **{"cut": "auto", **changes})
            except (GateError, UnsupportedError) as error:
                _say(f"{name}, {label}: {str(error).splitlines()[0]}")
                continue
            yield from _case(f"sealed/{name}/{label} at {made.cut}", stage, made, plain)
            if label == "sealed":
                yield from _linear(f"sealed/{name}/linear head", stage, made, plain)
        yield from _whole(f"sealed/{name}/ckks", stage, plain)


def _linear(case: str, stage: Stage, made: Hardened, plain: float) -> Iterator[Row]:
    """A logistic regression on what the encoder gives, on ciphertexts."""
    features = {}
    for part in ("train", "test"):
        x = torch.from_numpy(stage.records(part).x)
        with torch.no_grad():
            features[part] = made.halves.encoder(x).double().numpy()
    model = LogisticRegression(max_iter=2000)
    model.fit(features["train"], stage.records("train").public)
    bound = float(np.abs(features["train"]).max())
    program = from_estimator(model, bound=bound)
    inputs = np.clip(features["test"], -bound, bound)
    yield from _encrypted(case, program, features["train"], inputs, stage, plain)


def _whole(case: str, stage: Stage, plain: float) -> Iterator[Row]:
    train, test = stage.records("train"), stage.records("test")
    x = test.x.reshape(len(test.x), -1)
    inputs = torch.from_numpy(train.x).flatten(1)
    answers = torch.from_numpy(np.asarray(train.public, dtype=np.int64))
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Linear(inputs.shape[1], 32), Squared(), torch.nn.Linear(32, int(answers.max()) + 1)
    )
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.05)
    for _ in range(40):
        for batch in torch.randperm(len(inputs)).split(64):
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(network(inputs[batch]), answers[batch]).backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
    program = to_program(network.eval(), inputs)
    bounded = np.clip(x, -program.bound, program.bound)
    yield from _encrypted(case, program, inputs.numpy(), bounded, stage, plain)


def _encrypted(
    case: str, program: Program, records: Any, x: Any, stage: Stage, plain: float
) -> Iterator[Row]:
    """`program` on ciphertexts of x, flooded."""
    layout = plan(program, records=records, flooding_bits=40)
    client = EncryptedClient(layout.for_client())
    server = EncryptedServer(layout, client.public_keys)
    server.answer(client.encrypt(x[0]))  # weights are encoded at the first query
    picked = np.random.default_rng(0).permutation(len(x))[:_QUERIES]
    times, got = [], []
    for one in picked:
        request = client.encrypt(x[one])
        reply, spent = _timed(lambda request=request: server.answer(request))
        times.append(spent)
        got.append(_class(client.decrypt(reply)))
    says: dict[str, Any] = {"unit": "ms", "n": len(picked)}
    middle = float(np.median(times))
    yield row(case, "server CPU per query", middle, plain, "plain", **says)
    told = layout.estimate.server_ms
    yield row(case, "predicted CPU", middle, told, "the plan's", **says)
    yield row(case, "request", float(len(request)), None, "none", unit="bytes", n=1)
    clear = [_class(each) for each in program.run(x[picked])]
    same = float((np.array(got) == np.array(clear)).mean())
    share = {"unit": "share", "n": len(picked), "higher": True}
    yield row(case, "agreement with its own network on plaintext", same, 1.0, "plaintext", **share)
    truth = np.asarray(stage.records("test").public)[picked]
    yield row(case, "accuracy", float((np.array(got) == truth).mean()), None, "none", **share)


def _class(answer: Any) -> int:
    return int(answer.argmax()) if len(answer) > 1 else int(answer[0] > 0)


def _case(case: str, stage: Stage, made: Hardened, plain: float) -> Iterator[Row]:
    x, truth = stage.records("test").x, stage.records("test").public
    with tempfile.TemporaryDirectory() as folder:
        publish(Path(folder), made, stage.task, name="model")
        client, server = local_pair(Path(folder))
        picked = np.random.default_rng(0).permutation(len(x))[:_QUERIES]
        encode, answer, decode, got = [], [], [], []
        for one in picked:
            request, spent = _timed(lambda one=one: client.encode(x[one : one + 1]))
            encode.append(spent)
            reply, spent = _timed(lambda request=request: server.answer(request))
            answer.append(spent)
            said, spent = _timed(lambda reply=reply: client.decode(reply))
            decode.append(spent)
            got.append(int(said[0]))
        size = sum(_bytes(value) for value in request.values())
    deployed = stage.outputs("test").argmax(axis=1)
    says: dict[str, Any] = {"unit": "ms", "n": len(picked)}
    middle = float(np.median(answer))
    yield row(case, "server CPU per query", middle, plain, "plain", **says)
    both = float(np.median(encode) + np.median(decode))
    yield row(case, "client CPU per query", both, None, "none", **says)
    yield row(case, "request", float(size), None, "none", unit="bytes", n=1)
    same = float((np.array(got) == deployed[picked]).mean())
    whole = {"unit": "share", "n": len(picked), "higher": True}
    yield row(case, "agreement with the deployed model", same, 1.0, "plain", **whole)
    predicted = made.halves.predict(x).argmax(axis=1)
    own = float((np.array(got) == predicted[picked]).mean())
    yield row(case, "agreement with its own network on plaintext", own, 1.0, "plaintext", **whole)
    right, base = float((predicted == truth).mean()), float((deployed == truth).mean())
    yield row(case, "accuracy", right, base, "plain", unit="share", n=len(x), higher=True)
    share = made.costs.client_flops_share
    yield row(case, "client's share of FLOPs", share, None, "none", unit="share", n=1)


def _plain(stage: Stage) -> float:
    x = stage.records("test").x[:1]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plain.onnx"
        export(stage.model, torch.from_numpy(x), path)
        graph = Graph(path)
    return float(np.median([_timed(lambda: graph(x))[1] for _ in range(_QUERIES)]))


def _timed(call: Callable[[], Any]) -> tuple[Any, float]:
    start = time.process_time()
    made = call()
    return made, 1000 * (time.process_time() - start)


def _bytes(value: Any) -> int:
    return sum(map(len, value)) if value.dtype == object else int(value.nbytes)


def _say(text: str) -> None:
    print(f"  {text}", file=sys.stderr)
