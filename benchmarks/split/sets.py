"""The real sets of the split benchmark, each as a recipe; RETICENT_DATA names their folder."""

from __future__ import annotations

from typing import Any

from reticent.pipeline.recipe import Recipe

# Hyper-parameters are those of the recipes; none was chosen on a test part.
SETS: dict[str, dict[str, Any]] = {
    "phone activity": {
        "task": {"data": "har_phone_watch", "private": ["person"]},
        "train": {"epochs": 20},
    },
    "faces: pose": {
        "task": {"data": "cmu_faces", "public": "pose", "private": ["identity"]},
        "train": {"epochs": 30, "batch_size": 32},
    },
    "spoken digits": {
        "task": {"data": "fsdd", "private": ["speaker"]},
        "train": {"epochs": 20},
    },
    "handwritten parity": {
        "task": {"data": "mnist_t10k", "public": "parity", "private": ["digit"]},
        "train": {"epochs": 8},
    },
    "income": {
        "task": {"data": "adult", "private": ["sex", "race"]},
        "train": {"epochs": 6, "batch_size": 256},
    },
    "intrusion": {
        "task": {"data": "nsl_kdd"},
        "train": {"epochs": 6, "batch_size": 256},
    },
    "remaining life": {
        "task": {"data": "cmapss_fd001"},
        "train": {"epochs": 20},
    },
}


def recipe(name: str, *, seed: int, seeds: int, quick: bool, **inference: Any) -> Recipe:
    """The recipe of one set, audited with `seeds` attackers' seeds."""
    table = SETS[name]
    slug = name.replace(":", "").replace(" ", "-")
    return Recipe.from_dict(
        {
            "name": slug,
            "seed": seed,
            **table,
            "inference": inference or {"method": "adapter_code"},
            "audit": {"seeds": seeds, "quick": quick},
        },
        source=f"benchmark set {name}",
    )
