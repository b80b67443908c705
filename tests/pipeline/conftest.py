"""The bundle that a quick run makes of a small task with a strong private mark."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from marks import CLASSES, PEOPLE, make_recipe

from reticent.pipeline.run import Result, run


@pytest.fixture(scope="session")
def arrays(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An .npz of 1,800 vectors: public in some coordinates, the person in others."""
    rng = np.random.default_rng(0)
    person = np.repeat(np.arange(PEOPLE), 300)
    public = rng.integers(0, CLASSES, len(person))
    x = rng.normal(0, 0.6, (len(person), 20))
    x[:, :CLASSES] += 2.5 * np.eye(CLASSES)[public]
    x[:, 8 : 8 + PEOPLE] += 2.0 * np.eye(PEOPLE)[person]
    path = tmp_path_factory.mktemp("arrays") / "marks.npz"
    np.savez(path, x=x.astype(np.float32), public=public, person=person, user=person)
    return path


@pytest.fixture(scope="session")
def result(arrays: Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """What one run makes."""
    folder = tmp_path_factory.mktemp("runs") / "marks"
    return run(make_recipe(arrays), folder, report=lambda text: None)
