"""The server's files of a sealed split: the polynomial network, and how it was laid out."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reticent.errors import BundleError, ConfigError
from reticent.inference.ckks import program_file
from reticent.inference.ckks.plan import Goal, Plan, plan
from reticent.inference.ckks.primitives import Primitives
from reticent.inference.ckks.program import Program, Values
from reticent.inference.ckks.reach import reach_from_json

PROGRAM_FILE, LAYOUT_FILE = "network.npz", "layout.json"
_SCHEMA = 3


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A program and its plan, with the primitives that chose it: any machine plans the same."""

    program: Program
    plan: Plan
    goal: Goal
    primitives: Primitives

    @property
    def flooding_bits(self) -> int:
        """The flood's statistical security, 0 for none."""
        return 0 if self.plan.flood is None else self.plan.flood.bits


def laid_out(program: Program, *, goal: Goal, flooding_bits: int, records: Values | None) -> Layout:
    """`program` planned from primitives measured on this machine, and for inputs like `records`."""
    chosen = plan(program, goal=goal, flooding_bits=flooding_bits, records=records)
    return Layout(program=program, plan=chosen, goal=goal, primitives=chosen.primitives)


def save_layout(folder: Path, layout: Layout) -> None:
    """Write the network and its layout into `folder`."""
    program_file.save(folder / PROGRAM_FILE, layout.program)
    record = {
        "schema": _SCHEMA,
        "goal": layout.goal,
        "flooding_bits": layout.flooding_bits,
        "reach": layout.plan.reach.to_json(),
        "plan": layout.plan.digest.hex(),
        "primitives": {name: list(times) for name, times in layout.primitives.table.items()},
        "estimate": layout.plan.estimate.to_json(),
    }
    (folder / LAYOUT_FILE).write_text(json.dumps(record, indent=2, allow_nan=False) + "\n")


def load_plan(folder: Path) -> Plan:
    """The plan of `load_layout`."""
    return load_layout(folder).plan


def load_layout(folder: Path) -> Layout:
    """What `save_layout` wrote.

    Raises `BundleError` for files that are missing, malformed, or of another version's planner.
    """
    program = program_file.load(folder / PROGRAM_FILE)
    try:
        record: dict[str, Any] = json.loads((folder / LAYOUT_FILE).read_text())
        if record["schema"] != _SCHEMA:
            raise ValueError(f"schema={record['schema']!r}")
        primitives = Primitives(
            table={
                str(name): tuple(float(time) for time in times)
                for name, times in record["primitives"].items()
            }
        )
        goal: Goal = record["goal"]
        made = plan(
            program,
            goal=goal,
            reach=reach_from_json(record["reach"]),
            primitives=primitives,
            flooding_bits=int(record["flooding_bits"]),
        )
        if made.digest.hex() != record["plan"]:
            raise ValueError("this version would lay it out otherwise than the client's files say")
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ConfigError) as error:
        raise BundleError(
            f"No usable {LAYOUT_FILE} in {folder.name!r}: {error}. Publish the bundle again."
        ) from error
    return Layout(program=program, plan=made, goal=goal, primitives=primitives)
