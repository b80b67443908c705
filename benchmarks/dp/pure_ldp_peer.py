"""pure-ldp's clients and servers on the values of values.npy, for `local.py`.

    python pure_ldp_peer.py FOLDER

FOLDER holds values.npy (n,) and question.json (categories, epsilon, repeats). Prints one JSON
object: reports per CPU second and the mean squared error of the counts, per mechanism. Runs in an
environment of its own: pure-ldp, statsmodels.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from pure_ldp.frequency_oracles.direct_encoding import DEClient, DEServer
from pure_ldp.frequency_oracles.hadamard_response import (
    HadamardResponseClient,
    HadamardResponseServer,
)
from pure_ldp.frequency_oracles.local_hashing import LHClient, LHServer
from pure_ldp.frequency_oracles.unary_encoding import UEClient, UEServer


def pair(name: str, epsilon: float, categories: int) -> tuple[Any, Any]:
    """A client and a server."""
    if name == "response":
        return DEClient(epsilon=epsilon, d=categories), DEServer(epsilon=epsilon, d=categories)
    if name in ("oue", "sue"):
        given = {"epsilon": epsilon, "d": categories, "use_oue": name == "oue"}
        return UEClient(**given), UEServer(**given)
    if name == "olh":
        given = {"epsilon": epsilon, "d": categories, "use_olh": True}
        return LHClient(**given), LHServer(**given)
    server = HadamardResponseServer(epsilon, categories)
    return HadamardResponseClient(epsilon, categories, server.get_hash_funcs()), server


def main() -> None:
    """All mechanisms that this package has."""
    folder = Path(sys.argv[1])
    question = json.loads((folder / "question.json").read_text(encoding="utf-8"))
    values = np.load(folder / "values.npy")
    categories = question["categories"]
    true = np.bincount(values, minlength=categories)
    made: dict[str, Any] = {}
    for name in ("response", "oue", "sue", "olh", "hadamard"):
        try:
            spent, errors = 0.0, []
            for _ in range(question["repeats"]):
                client, server = pair(name, question["epsilon"], categories)
                start = time.process_time()
                reports = [client.privatise(int(value) + 1) for value in values]
                spent += time.process_time() - start
                for report in reports:
                    server.aggregate(report)
                told = server.estimate_all(range(1, categories + 1), suppress_warnings=True)
                errors.append(np.mean((np.asarray(told) - true) ** 2))
            rate = len(values) * question["repeats"] / spent
            made[name] = {"rate": rate, "error": float(np.mean(errors))}
        except Exception as error:  # a rival that fails is left out with its reason
            made[name] = {"reason": f"{type(error).__name__}: {error}"}
    print(json.dumps(made))


if __name__ == "__main__":
    main()
