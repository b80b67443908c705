"""Where the real sets are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder that RETICENT_DATA names; a test that needs it fails without it."""
    folder = os.environ.get("RETICENT_DATA")
    assert folder, "set RETICENT_DATA to the folder of the real data sets"
    return Path(folder)
