"""The page on training on ciphertexts: its program runs and classifies."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "encrypted-training.md"


def test_the_pages_program_trains_a_classifier(capsys):
    (program,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    exec(compile(program, str(PAGE), "exec"), {})
    said = re.search(r"accuracy ([0-9.]+) on 169 records", capsys.readouterr().out)
    assert said is not None
    assert float(said[1]) >= 0.9
