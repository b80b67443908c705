"""Local randomisers: reports a CPU second beside pure-ldp, and squared errors beside the formulas.

RETICENT_PURE_LDP names the interpreter of an environment with `pure-ldp statsmodels`; without it
the rows have no rival. The rival draws from seeded generators, ours from the secure source.

    python benchmarks/dp/local.py [--quick]
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from rows import Row, row

from reticent.release.local.draws import SecureSource
from reticent.release.local.oracle import FrequencyOracle
from reticent.release.reports import FREQUENCY, NUMERIC

CATEGORIES, EPSILON = 100, 2.0
PEER = Path(__file__).with_name("pure_ldp_peer.py")


def rows(*, quick: bool) -> Iterable[Row]:
    """Frequency oracles on a Zipf column, then numbers."""
    rng = np.random.default_rng(1)
    shares = 1 / np.arange(1, CATEGORIES + 1)
    people = rng.choice(CATEGORIES, 2000, p=shares / shares.sum())
    rival = _rival(people, 10 if quick else 40)
    for name, make in FREQUENCY.items():
        oracle = make(CATEGORIES, EPSILON)
        yield from _frequency(name, oracle, people, rival.get(name, {}), quick)
    for name, build in NUMERIC.items():
        mechanism, values = build(EPSILON), rng.uniform(-1, 1, 200_000)
        start = time.process_time()
        reports = mechanism.randomise(values, SecureSource())
        spent = time.process_time() - start
        yield row(
            "local",
            f"{name}: reports a CPU second",
            len(values) / spent,
            None,
            "",
            unit="1/s CPU",
            n=len(values),
        )
        constant, square = mechanism.spread
        yield row(
            "local",
            f"{name}: squared error of a report over its formula",
            float(((reports - values) ** 2).mean() / (constant + square * (values**2).mean())),
            1.0,
            "closed form",
            unit="ratio",
            n=len(values),
        )


def _frequency(
    name: str, oracle: FrequencyOracle, people: Any, rival: dict[str, Any], quick: bool
) -> Iterator[Row]:
    many = np.tile(people, 25 if quick else 100)
    source = SecureSource()
    oracle.randomise(people, source)
    start = time.process_time()
    oracle.randomise(many, source)
    spent = time.process_time() - start
    note = {"left_out": rival["reason"]} if "reason" in rival else {}
    yield row(
        "local",
        f"{name}: reports a CPU second",
        len(many) / spent,
        rival.get("rate"),
        "pure-ldp" if "rate" in rival else "",
        higher=True,
        unit="1/s CPU",
        n=len(many),
        **note,
    )
    repeats = 50 if quick else 200
    true = np.bincount(people, minlength=CATEGORIES)
    stated = float(oracle.variance(len(people), true / len(people)).mean())
    found = [oracle.estimate(oracle.randomise(people, source)).counts for _ in range(repeats)]
    measured = float(np.mean((np.array(found) - true) ** 2))
    yield row(
        "local",
        f"{name}: squared error of a count over its formula",
        measured / stated,
        1.0,
        "closed form",
        unit="ratio",
        n=repeats,
    )
    if "error" in rival:
        yield row(
            "local",
            f"{name}: squared error of a count, beside a peer",
            measured,
            rival["error"],
            "pure-ldp",
            unit="people^2",
            n=repeats,
        )


def _rival(people: Any, repeats: int) -> dict[str, Any]:
    python = os.environ.get("RETICENT_PURE_LDP")
    if python is None:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "values.npy", people)
        question = {"categories": CATEGORIES, "epsilon": EPSILON, "repeats": repeats}
        (Path(folder) / "question.json").write_text(json.dumps(question), encoding="utf-8")
        ran = subprocess.run(
            [python, str(PEER), folder],
            capture_output=True,
            text=True,
            timeout=600,
            env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        )
    if ran.returncode:
        return {name: {"reason": ran.stderr.strip().splitlines()[-1]} for name in FREQUENCY}
    found: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    for found in rows(quick="--quick" in sys.argv):
        print(json.dumps(found), flush=True)
