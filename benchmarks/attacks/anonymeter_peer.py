"""Anonymeter's public interface on tables given as .npz files, for `linkage.py`.

    python anonymeter_peer.py FOLDER

FOLDER holds release.npz, original.npz, control.npz and question.json. Prints one JSON object:
risk, interval and CPU seconds per attack. Runs in an environment of its own; each attack runs
twice, and the second run is timed, so that compilation isn't counted.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anonymeter.evaluators import InferenceEvaluator, LinkabilityEvaluator, SinglingOutEvaluator


def read(path: Path) -> Any:
    """One table."""
    with np.load(path) as stored:
        return pd.DataFrame({name: stored[name] for name in stored.files})


def timed(make: Callable[[], Any], evaluate: Callable[[Any], Any]) -> dict[str, Any]:
    """Risk, interval and CPU seconds of the second of two runs."""
    seconds = 0.0
    for _ in range(2):
        evaluator = make()
        start = time.process_time()
        evaluate(evaluator)
        risk = evaluator.risk(confidence_level=0.95)
        seconds = time.process_time() - start
    return {"risk": risk.value, "ci": list(risk.ci), "seconds": seconds}


def main() -> None:
    """Run all attacks and print what they say."""
    folder = Path(sys.argv[1])
    question = json.loads((folder / "question.json").read_text(encoding="utf-8"))
    release, original, control = (
        read(folder / f"{name}.npz") for name in ("release", "original", "control")
    )
    attacks = question["attacks"]
    found = {
        "singling out": timed(
            lambda: SinglingOutEvaluator(
                ori=original, syn=release, control=control, n_attacks=attacks,
                n_cols=question["width"], seed=0,
            ),
            lambda one: one.evaluate(mode="multivariate"),
        ),
        "linkability": timed(
            lambda: LinkabilityEvaluator(
                ori=original, syn=release, control=control, n_attacks=attacks,
                aux_cols=tuple(question["parts"]), n_neighbors=1,
            ),
            lambda one: one.evaluate(n_jobs=1),
        ),
        "inference": timed(
            lambda: InferenceEvaluator(
                ori=original, syn=release, control=control, n_attacks=attacks,
                aux_cols=question["known"], secret=question["secret"],
            ),
            lambda one: one.evaluate(n_jobs=1),
        ),
    }  # fmt: skip
    print(json.dumps(found))


if __name__ == "__main__":
    main()
