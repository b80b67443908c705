"""ART's membership attack with shadow models, run in an environment of its own.

    python art_membership.py GIVEN.npz FOUND.npz

GIVEN holds records, truth and the victim's weights (two linear layers). The attack learns from what
three shadow models, trained on thirds of the pool, show of it; it is judged on the whole pool.
"""

from __future__ import annotations

import sys
import time

import numpy as np
import torch
from art.attacks.inference.membership_inference import MembershipInferenceBlackBox, ShadowModels
from art.estimators.classification import PyTorchClassifier
from art.utils import to_categorical
from torch import nn


def classifier(given: np.lib.npyio.NpzFile) -> PyTorchClassifier:
    """ART's wrapper around the victim's architecture."""
    first, last = given["w0"], given["w2"]
    net = nn.Sequential(
        nn.Linear(first.shape[1], first.shape[0]), nn.ReLU(), nn.Linear(*last.shape[::-1])
    )
    return PyTorchClassifier(
        model=net,
        loss=nn.CrossEntropyLoss(),
        optimizer=torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9),
        input_shape=(first.shape[1],),
        nb_classes=last.shape[0],
        device_type="cpu",
    )


def main() -> None:
    """Attack the victim in the file, write its scores and CPU seconds."""
    torch.set_num_threads(1)
    given = np.load(sys.argv[1])
    x, y = given["x"].astype(np.float32), given["y"]
    classes = int(y.max()) + 1
    victim = classifier(given)
    with torch.no_grad():
        for number, parameter in enumerate(victim.model.parameters()):
            parameter.copy_(torch.from_numpy(given[f"w{number}"]))
    start = time.process_time()
    seed = int(given["seed"])
    np.random.seed(seed)  # noqa: NPY002  ART draws from numpy's global state
    torch.manual_seed(seed)
    shadows = ShadowModels(
        classifier(given), num_shadow_models=3, random_state=np.random.RandomState(seed)
    )
    hot = to_categorical(y, classes)
    shadow = shadows.generate_shadow_dataset(x, hot)
    (inside_x, inside_y, inside_p), (outside_x, outside_y, outside_p) = shadow
    attack = MembershipInferenceBlackBox(victim, attack_model_type="rf")
    attack.fit(inside_x, inside_y, outside_x, outside_y, inside_p, outside_p)
    found = attack.infer(x, hot, probabilities=True)
    spent = time.process_time() - start
    scores = np.asarray(found, dtype=np.float64).reshape(len(x), -1)[:, -1]
    np.savez(sys.argv[2], scores=scores, cpu=spent)


if __name__ == "__main__":
    main()
