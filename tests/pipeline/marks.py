"""A small task with a strong private mark: its sizes, and a quick recipe."""

from __future__ import annotations

from pathlib import Path

from reticent.pipeline.recipe import Recipe

CLASSES, PEOPLE = 3, 6


def make_recipe(arrays: Path, **inference: object) -> Recipe:
    """A quick recipe on `arrays`."""
    return Recipe.from_dict(
        {
            "name": "marks",
            "task": {"data": str(arrays)},
            "model": {"name": "mlp", "options": {"widths": [48, 32, 16]}},
            "train": {"epochs": 6},
            "inference": {"method": "adapter_code", "cut": "block1", **inference},
            "audit": {"quick": True, "seeds": 1, "requests": [1, 8], "frontier": ["center@block2"]},
            "gates": {"max_excess_leakage": 0.05},
        },
        source="test",
    )
