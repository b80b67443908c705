"""The page on releases: its Python runs, and its queries and options exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from reticent.release.grammar import parse
from reticent.release.reports import FREQUENCY, NUMERIC

PAGE = Path(__file__).parents[2] / "docs" / "release.md"
TEXT = PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL))
def test_the_python_runs(code: str) -> None:
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr


def test_its_queries_are_queries() -> None:
    shown = [
        item
        for item in re.findall(r"`([a-z]+\([^`]*\))`", TEXT)
        if item.split("(")[0] in ("count", "sum", "mean", "quantile", "histogram", "top")
    ]
    assert len(shown) == 7
    for query in (*shown, *re.findall(r'--query "([^"]*)"', TEXT)):
        parse(query)


def test_every_local_mechanism_is_told_of() -> None:
    rows = re.findall(r"^\| (`[^|]*) \|", TEXT, re.MULTILINE)
    named = {name for cell in rows for name in re.findall(r"`([a-z]+)`", cell)}
    assert {*FREQUENCY, *NUMERIC} <= named
