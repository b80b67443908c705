"""The README's own snippets: the Python runs as it stands, the commands name verbs that exist."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from reticent.cli import VERBS
from reticent.inference import bundle

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_every_command_is_a_verb() -> None:
    named = set(re.findall(r"^reticent (\w+)", "\n".join(blocks("bash")), re.MULTILINE))
    assert {"demo", "run", "serve", "query", "audit"} <= named
    assert named <= {verb.__name__ for verb in VERBS}


def test_the_python_snippet_hardens_attacks_and_publishes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    person = np.repeat(np.arange(5), 120)
    activity = rng.integers(0, 3, len(person))
    x = rng.normal(0, 0.5, (len(person), 12)).astype(np.float32)
    x[:, :3] += 2 * np.eye(3, dtype=np.float32)[activity]
    x[:, 6:11] += 2 * np.eye(5, dtype=np.float32)[person]
    model = nn.Sequential(
        nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 3)
    )
    (snippet,) = blocks("python")
    scope = {"x": x, "activity": activity, "person": person, "model": model}
    exec(snippet, scope)  # the project's own text
    assert bundle.load(tmp_path / "runs" / "mine").name == "mine"
    printed = capsys.readouterr().out.splitlines()
    assert any(line.startswith("person 8 ") for line in printed)
