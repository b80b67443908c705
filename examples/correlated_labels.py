"""When public and private labels correlate, the floor moves, and no defence can go below it.

    python examples/correlated_labels.py

A dial on SYNTHETIC data sets how often the public topic equals the private group. The server's
best guess rises with it, with or without protection: what protection controls is the excess.
"""

from __future__ import annotations

import torch

import reticent
from reticent.data.generators.dial import dial, dial_floor
from reticent.models.networks import build
from reticent.training.plain import Plan, fit


def main() -> None:
    """One line per setting of the dial."""
    torch.set_num_threads(1)
    print("correlation  best guess  | from the code (floor)   from center-loss features")
    for correlation in (0.0, 0.5, 1.0):
        task = dial(correlation=correlation, persons=60, records=40)
        parts = reticent.partition(task, regime="known")
        train, held = task.take(parts.train), task.take(parts.validation)
        torch.manual_seed(0)
        network = build("mlp", shape=task.x.shape[1:], outputs=2, x=train.x)
        model = fit(network, train, held, kind=task.kind, plan=Plan(epochs=5)).model
        line = f"{correlation:11.2f}  {dial_floor(correlation):10.3f}  |"
        for method in ("adapter_code", "center"):
            made = reticent.harden(model, task, parts=parts, method=method, cut="block1", epochs=3)
            found = made.attack(["group"], requests=(1,), quick=True)[0]
            line += f"  {found.value:10.3f} ({found.floor:.3f})  "
        print(line, flush=True)


if __name__ == "__main__":
    main()
