"""Peak memory of three training steps above the built model, each in a process of its own."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

# Run by path in a fresh interpreter, it has to find its neighbours by itself.
sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))

from rows import Row, row

NAMES = ("mlp", "cnn", "lstm", "bert-tiny", "lora", "wrn-16-4")


def peak(name: str, variant: str) -> float:
    """MiB, measured by a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, __file__, name, variant], capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def rows(*, quick: bool) -> Iterable[Row]:
    """Ours against plain SGD per network."""
    for name in NAMES[:3] if quick else NAMES:
        ours, plain = peak(name, "ours"), peak(name, "plain")
        yield row(name, "peak MiB above the model", ours, plain, "plain", unit="MiB", n=1)


def main(name: str, variant: str) -> None:
    """Print the peak of three steps."""
    import torch
    from networks import cases
    from throughput import ours, plain

    from reticent.training.dp_sgd.noise import SeededNoise

    torch.set_num_threads(1)
    case = next(case for case in cases() if case.name == name)
    step = plain(case) if variant == "plain" else ours(case, SeededNoise(1))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(3):
        step()
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


if __name__ == "__main__":
    main(*sys.argv[1:])
