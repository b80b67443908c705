"""The page of attacks: every attack of the register is on it, and every function on it exists."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

from reticent.audit.register import ENTRIES

PAGE = (Path(__file__).parents[1] / "docs" / "attacks.md").read_text(encoding="utf-8")


def test_every_attack_of_the_register_is_on_the_page_with_its_level() -> None:
    listed = dict(re.findall(r"^\| `(\w+)` \| (L\d) \|", PAGE, re.MULTILINE))
    assert listed == {entry.name: f"L{entry.access.value}" for entry in ENTRIES}


def test_every_function_on_the_page_exists() -> None:
    named = re.findall(r"`(reticent\.[a-z_.]+)\.(audit_\w+)`", PAGE)
    assert len(named) >= 6
    for module, name in named:
        assert callable(getattr(importlib.import_module(module), name)), (module, name)
