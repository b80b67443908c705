"""Inference on ciphertexts against its rivals: CPU time, upload, agreement.

    python benchmarks/encrypted/run.py [--quick] [--case CASE] --json

Each case is a module beside this file with `rows(quick=...)`. Prints one JSON object
{"rows": [...]}; `ratio` above 1 means that we are better. One thread, CPU time, peers side by side
in one process run. TenSEAL, Orion v2 and Concrete-ML take part through RETICENT_TENSEAL,
RETICENT_ORION and RETICENT_CONCRETE, Python interpreters that have them; see README.md.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from cases import run_cases

if __name__ == "__main__":
    run_cases(Path(__file__).parent, __doc__)
