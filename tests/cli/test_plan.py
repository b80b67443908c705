"""`reticent plan`: options or questions, a recipe on disk or on standard output."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from reticent.cli import app
from reticent.cli.frame import call
from reticent.pipeline.recipe import load_recipe


def test_the_written_recipe_is_the_one_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--protect", "input", "--no-retrain", "--client-share", "0.2", "--data", "adult"]
    assert call(app, ["plan", *options, "--private", "sex", "--out", str(tmp_path), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    recipe = load_recipe(record["path"])
    assert recipe.to_dict() == record["recipe"]
    assert recipe.inference.method == record["method"] == "adapter_code"
    assert recipe.task.private == ("sex",)
    assert Path(record["path"]).read_text(encoding="utf-8") == record["toml"]


def test_text_says_what_is_not_yet(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(app, ["plan", "--protect", "model", "--protect", "training data"]) == 0
    shown = capsys.readouterr().out
    assert "model from server: NOT YET" in shown
    assert "training data from server: NOT YET" in shown
    assert "channel  plain" in shown


def test_questions_are_asked_at_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = io.StringIO("input\nserver\nn\n0.5\n")
    monkeypatch.setattr(answers, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stdin", answers)
    assert call(app, ["plan"]) == 0
    captured = capsys.readouterr()
    assert "method   adapter_code" in captured.out
    assert "What is sensitive" in captured.err
    assert "What is sensitive" not in captured.out


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--json"], "Expected --protect"),
        (["--protect", "inptu"], "Did you mean 'input'?"),
        (["--protect", "input", "--from", "sever"], "Did you mean 'server'?"),
        (["--protect", "input", "--client-share", "2"], "client_share=2.0"),
    ],
)
def test_bad_answers_are_exit_2(
    options: list[str], part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(app, ["plan", *options]) == 2
    assert part in capsys.readouterr().err
