"""The sealed split on real sets beside the plain channel and the split.

Encrypted whole, these sets' convolutional networks need nine to eleven products in a row, which
takes larger keys than a client would send; so `ckks` has no row. Per query, in one process and
thread: what the client and the server compute, what crosses, and how often the answer is that of
the deployed model. RETICENT_DATA names the folder of the sets.
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
from rows import Row, row

sys.path.insert(0, str(Path(__file__).parents[1] / "split"))

from sets import recipe

from reticent.errors import GateError, UnsupportedError
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
_QUERIES = 40


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
