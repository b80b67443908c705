"""Where a user's ledger is when nobody says otherwise."""

from __future__ import annotations

import os
from pathlib import Path

LEDGER_VARIABLE = "RETICENT_LEDGER"


def ledger_path(given: str | Path | None) -> Path:
    """`given`, else what RETICENT_LEDGER names, else ~/.reticent/budget.db.

    One ledger per user, not per folder: another working directory is no new budget.
    """
    named = os.environ.get(LEDGER_VARIABLE)
    return Path(given or named or Path.home() / ".reticent" / "budget.db")
