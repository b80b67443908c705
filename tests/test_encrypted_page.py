"""The page on encrypted inference: its program runs and tells what it says."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "encrypted.md"


def test_the_pages_program_classifies_an_encrypted_digit(capsys):
    found = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    program, whole, batch, flooding = found
    space: dict[str, object] = {}
    exec(compile(program, str(PAGE), "exec"), space)
    told = capsys.readouterr().out
    assert "held-out records" in told
    assert "128-bit security" in told
    guess, truth = told.splitlines()[-1].split()
    assert guess == truth
    assert space["layout"].estimate.packing == "single"
    exec(compile(whole, str(PAGE), "exec"), space)
    told = capsys.readouterr().out
    assert "certified on 512 records" in told
    assert "instead, goal='throughput'" in told
    exec(compile(batch, str(PAGE), "exec"), space)
    told = capsys.readouterr().out
    assert "0 rotations" in told
    assert float(told.splitlines()[-1]) > 0.8
    exec(compile(flooding, str(PAGE), "exec"), space)
    assert "40 bits of statistical security" in capsys.readouterr().out
