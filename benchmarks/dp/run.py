"""Differentially private training against its rivals: CPU time, memory.

    python benchmarks/dp/run.py [--quick] [--case CASE] --json

Each case is a module beside this file with `rows(quick=...)`. Prints one JSON object
{"rows": [...]}; `ratio` above 1 means that we are better. One thread, CPU time, peers side by side
in one process run. Opacus takes part where it can be imported.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

from rows import Row

CASES = tuple(
    sorted(
        path.stem
        for path in Path(__file__).parent.glob("*.py")
        if path.stem != "run" and "\ndef rows(" in path.read_text(encoding="utf-8")
    )
)


def main() -> None:
    """Run the cases asked for and print their rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--case", choices=CASES, action="append")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    made: list[Row] = []
    for name in given.case or CASES:
        for found in importlib.import_module(name).rows(quick=given.quick):
            made.append(found)
            print(f"  {found['case']}: {found['metric']}", file=sys.stderr, flush=True)
            if not given.json:
                print(json.dumps(found), flush=True)
    if given.json:
        print(json.dumps({"rows": made}))


if __name__ == "__main__":
    main()
