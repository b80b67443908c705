"""A trainer on disk: weights, optimiser, generators, bound, choices; a resumed run goes on exactly.

A secure run has no generator to store: fresh keys are as good. Only one continuation of a stored
run may be released: two of them show the same data with two draws of noise, for twice the budget.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reticent.errors import BundleError
from reticent.training.dp_sgd.clipping import AdaptiveQuantile
from reticent.training.dp_sgd.noise import SeededNoise
from reticent.training.dp_sgd.sampling import SeededWords
from reticent.training.dp_sgd.trainer import Trainer

_TENSORS, _STATE = "trainer.safetensors", "trainer.json"


def save(trainer: Trainer, folder: Path) -> None:
    """Write the trainer's state into `folder`; the data and the network are not stored.

    The files hold what only the trainer may know: nothing of them is covered by the guarantee but
    the weights.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"model/{k}": v.contiguous() for k, v in trainer.model.state_dict().items()}
    tensors |= {f"average/{index}": value for index, value in enumerate(trainer.average)}
    for index, slots in trainer.optimiser.state_dict()["state"].items():
        for name, value in slots.items():
            if isinstance(value, Tensor):
                tensors[f"optimiser/{index}/{name}"] = value
    if isinstance(trainer.noise, SeededNoise):
        tensors["noise"] = trainer.noise.generator.get_state()
    unique = {name: value.clone() for name, value in tensors.items()}
    save_file(unique, str(folder / _TENSORS))
    state = {
        **_fixed(trainer),
        "steps_done": trainer.steps_done,
        "words": trainer.words.state if isinstance(trainer.words, SeededWords) else None,
        "clip_norm": trainer.clipping.clip_norm,
        "choices": trainer.engine.tuner.choices,
    }
    (folder / _STATE).write_text(json.dumps(state, indent=2) + "\n")


def restore(trainer: Trainer, folder: Path) -> None:
    """Put a stored state into a fresh trainer of the same network, data and plan.

    Raises `BundleError` when they differ: other steps or noise would make the charge wrong.
    """
    from safetensors.torch import load_file

    try:
        state = json.loads((folder / _STATE).read_text())
        tensors = load_file(str(folder / _TENSORS))
        given = json.loads(json.dumps(_fixed(trainer)))
        differing = sorted(name for name in given if given[name] != state[name])
        if differing:
            raise ValueError(f"the stored run has other {differing}")
        trainer.model.load_state_dict(_under(tensors, "model/"))
        for index, value in enumerate(trainer.average):
            value.copy_(tensors[f"average/{index}"])
        _restore_optimiser(trainer, _under(tensors, "optimiser/"))
        if isinstance(trainer.noise, SeededNoise) and isinstance(trainer.words, SeededWords):
            trainer.noise.generator.set_state(tensors["noise"])
            trainer.words.state = state["words"]
        if isinstance(trainer.clipping, AdaptiveQuantile):
            trainer.clipping.clip_norm = float(state["clip_norm"])
        trainer.engine.tuner.choices = {str(k): str(v) for k, v in state["choices"].items()}
        trainer.steps_done = int(state["steps_done"])
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise BundleError(f"The run in {folder.name!r} can't be resumed: {error}") from error


def _fixed(trainer: Trainer) -> dict[str, Any]:
    return {
        "plan": asdict(trainer.plan),
        "mechanism": asdict(trainer.mechanism),
        "sampling": asdict(trainer.sampling),
        "seed": trainer.seed,
        "clipping": type(trainer.clipping).__name__,
        "views": [trainer.views.name, trainer.views.multiplicity],
    }


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _restore_optimiser(trainer: Trainer, tensors: dict[str, Tensor]) -> None:
    whole = trainer.optimiser.state_dict()
    slots: dict[int, dict[str, Any]] = {}
    for name, value in tensors.items():
        index, _, slot = name.partition("/")
        slots.setdefault(int(index), {})[slot] = value
    with torch.no_grad():
        trainer.optimiser.load_state_dict({**whole, "state": slots})
