"""The Adversarial Robustness Toolbox's attribute inference on given arrays, for `linkage.py`.

    python art_attributes_peer.py ARRAYS.npz

Trains the same forest on the members, then every black-box attack on `own`, and prints one JSON
object: per attack model the balanced accuracy on members and on others, and CPU seconds. Column 0
holds the attribute.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from typing import Any

import numpy as np
from sklearn.ensemble import RandomForestClassifier

warnings.filterwarnings("ignore")

from art.attacks.inference.attribute_inference import (  # noqa: E402
    AttributeInferenceBaseline,
    AttributeInferenceBlackBox,
)
from art.estimators.classification.scikitlearn import (  # noqa: E402
    ScikitlearnRandomForestClassifier,
)


def recall(guesses: Any, truth: Any) -> float:
    """Balanced accuracy."""
    hits = np.asarray(guesses).reshape(-1).round() == truth
    return float(np.mean([hits[truth == value].mean() for value in (0, 1)]))


def main() -> None:
    """Run all attacks and print what they reach."""
    with np.load(sys.argv[1]) as stored:
        given = {name: stored[name] for name in stored.files}
    forest = RandomForestClassifier(60, bootstrap=False, random_state=0)
    forest.fit(given["members"], given["members_y"])
    model = ScikitlearnRandomForestClassifier(forest)
    found = {}
    for kind in ("rf", "gb", "lr"):
        start = time.process_time()
        attack = AttributeInferenceBlackBox(model, attack_model_type=kind, attack_feature=0)
        attack.fit(given["own"], given["own_y"])
        plain = AttributeInferenceBaseline(attack_model_type=kind, attack_feature=0)
        plain.fit(given["own"])
        reached = {}
        for part in ("members", "others"):
            x, y = given[part], given[f"{part}_y"]
            predicted = model.predict(x).argmax(axis=1).reshape(-1, 1)
            rest, truth = np.delete(x, 0, axis=1), x[:, 0]
            reached[part] = recall(attack.infer(rest, y, pred=predicted, values=[0, 1]), truth)
            reached[f"{part} without the model"] = recall(plain.infer(rest, values=[0, 1]), truth)
        found[kind] = {**reached, "seconds": time.process_time() - start}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
