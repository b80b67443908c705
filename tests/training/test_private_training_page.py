"""The page on private training: its programs run, learn and spend what they say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "private-training.md"


def test_the_pages_program_trains_within_its_budget(tmp_path, monkeypatch, capsys):
    pytest.importorskip("dp_accounting")
    monkeypatch.chdir(tmp_path)
    programs = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    space: dict[str, object] = {}
    exec(compile("\n".join(programs), str(PAGE), "exec"), space)
    told = capsys.readouterr().out
    found = re.search(r"epsilon (\S+), delta 1e-05, test accuracy (\S+)", told)
    assert found is not None
    assert 2.5 < float(found[1]) <= 3.0
    assert float(found[2]) > 0.75
    chosen = re.search(r"candidate (\d), score \S+, epsilon (\S+)", told)
    assert chosen is not None
    assert 2.5 < float(chosen[2]) <= 3.0
