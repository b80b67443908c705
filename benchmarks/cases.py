"""The command line of a benchmark whose cases are the modules of one folder."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path

from rows import Row


def run_cases(folder: Path, description: str | None) -> None:
    """Run the cases asked for, each a module in `folder` with `rows(quick=...)`; print the rows."""
    sys.path.insert(0, str(folder))
    names = sorted(
        path.stem
        for path in folder.glob("*.py")
        if path.stem != "run" and "\ndef rows(" in path.read_text(encoding="utf-8")
    )
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--case", choices=names, action="append")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    made: list[Row] = []
    for name in given.case or names:
        for found in importlib.import_module(name).rows(quick=given.quick):
            made.append(found)
            print(f"  {found['case']}: {found['metric']}", file=sys.stderr, flush=True)
            if not given.json:
                print(json.dumps(found), flush=True)
    if given.json:
        print(json.dumps({"rows": made}))
