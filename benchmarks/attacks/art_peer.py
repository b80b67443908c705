"""ART's Knockoff nets and CopycatCNN on a victim given as .npz files, for `extraction.py`.

    python art_peer.py FOLDER

FOLDER holds victim.npz (layers of a perceptron with one hidden layer), records.npz (pool, test)
and question.json. Prints one JSON object: agreement and CPU seconds per attack, budget and seed.
Runs in an environment of its own. The thieved network is like the victim; of 20 and 60 epochs of
Adam the better one counts.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from art.attacks.extraction import CopycatCNN, KnockoffNets
from art.estimators.classification import PyTorchClassifier
from torch import nn

torch.set_num_threads(1)


def classifier(net: nn.Module, width: int, classes: int) -> Any:
    """ART's wrapper of a network."""
    return PyTorchClassifier(
        model=net,
        loss=nn.CrossEntropyLoss(),
        optimizer=torch.optim.Adam(net.parameters(), 1e-3),
        input_shape=(width,),
        nb_classes=classes,
    )


def main() -> None:
    """Runs every attack that the question names."""
    folder = Path(sys.argv[1])
    question = json.loads((folder / "question.json").read_text(encoding="utf-8"))
    layers = np.load(folder / "victim.npz")
    records = np.load(folder / "records.npz")
    pool, test = records["pool"], records["test"]
    classes, hidden = layers["w2"].shape
    width = pool.shape[1]

    def network() -> nn.Module:
        return nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, classes))

    victim = network()
    with torch.no_grad():
        for layer, number in ((victim[0], "1"), (victim[2], "2")):
            layer.weight.copy_(torch.from_numpy(layers["w" + number]))
            layer.bias.copy_(torch.from_numpy(layers["b" + number]))
    target = classifier(victim.eval(), width, classes)
    truth = target.predict(test).argmax(axis=1)
    found = []
    for name in question["attacks"]:
        for queries in question["budgets"]:
            for seed in question["seeds"]:
                best: dict[str, Any] = {"agreement": -1.0}
                for epochs in (20, 60):
                    torch.manual_seed(seed)
                    np.random.seed(seed)  # noqa: NPY002  ART draws from the global generator
                    options = {
                        "classifier": target,
                        "batch_size_fit": 64,
                        "batch_size_query": 1024,
                        "nb_epochs": epochs,
                        "nb_stolen": queries,
                    }
                    if name == "copycat":
                        attack: Any = CopycatCNN(**options)
                    else:
                        graded = name == "knockoff, scores"
                        attack = KnockoffNets(**options, use_probability=graded, verbose=False)
                    start = time.process_time()
                    thieved = attack.extract(
                        pool, thieved_classifier=classifier(network(), width, classes)
                    )
                    seconds = time.process_time() - start
                    agreement = float((thieved.predict(test).argmax(axis=1) == truth).mean())
                    if agreement > best["agreement"]:
                        best = {"agreement": agreement, "seconds": seconds, "epochs": epochs}
                found.append({"attack": name, "queries": queries, "seed": seed, **best})
    print(json.dumps({"rows": found}))


if __name__ == "__main__":
    main()
