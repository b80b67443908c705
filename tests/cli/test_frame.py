"""The frame: one JSON object on standard output, the right exit code, and no slow start."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
import typer
from rich.table import Table

from reticent import errors
from reticent.cli import app as real_app
from reticent.cli import main
from reticent.cli.frame import DEBUG_VARIABLE, Overrides, Session, call, jsonable, verb
from reticent.guarantee import Pillar

Body = Callable[[Session], None]


def run(body: Body, *options: str) -> int:
    """Exit code of a one-verb application whose verb is `body`."""

    @verb
    def act(
        session: Session,
        number: Annotated[int, typer.Argument()] = 3,
        sets: Overrides = None,
    ) -> None:
        """Act."""
        session.note(f"number {number} sets {sets}")
        body(session)

    application = typer.Typer()
    application.command()(act)
    application.callback()(lambda: None)
    return call(application, ["act", *options])


def done(session: Session) -> None:
    session.result({"answer": 42}, "the answer is 42")


def raising(error: BaseException) -> Body:
    def body(session: Session) -> None:
        raise error

    return body


def test_text_goes_out_and_notes_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(done) == 0
    captured = capsys.readouterr()
    assert captured.out == "the answer is 42\n"
    assert captured.err == "number 3 sets None\n"


def test_json_is_one_object_whatever_libraries_print(capsys: pytest.CaptureFixture[str]) -> None:
    def noisy(session: Session) -> None:
        print("a library prints")
        with session.progress("working", total=2) as advance:
            advance(note="half")
        session.result({"array": np.arange(2), "inf": float("inf")})
        print("and prints again")

    assert run(noisy, "--json") == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"array": [0, 1], "inf": None}
    assert captured.out.count("\n") == 1
    assert "a library prints" in captured.err
    assert "and prints again" in captured.err
    assert "working" in captured.err


def test_quiet_keeps_the_result_and_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    def body(session: Session) -> None:
        with session.progress("working") as advance:
            advance()
        session.warn("mind this")
        done(session)

    assert run(body, "--quiet") == 0
    captured = capsys.readouterr()
    assert captured.out == "the answer is 42\n"
    assert captured.err == "warning: mind this\n"


def test_shared_and_own_options_reach_the_verb(tmp_path: Path) -> None:
    seen: list[Session] = []

    def body(session: Session) -> None:
        seen.append(session)
        done(session)

    options = ["7", "--seed", "5", "--out", str(tmp_path / "new"), "--set", "a.b=1", "--set", "c=2"]
    assert run(body, *options) == 0
    session = seen[0]
    assert (session.seed, session.seed_or(9), session.out) == (5, 5, tmp_path / "new")
    assert session.directory("elsewhere") == tmp_path / "new"
    assert (tmp_path / "new").is_dir()
    assert run(body) == 0
    assert seen[1].seed_or(9) == 9


def test_an_unusable_folder_is_bad_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")

    def body(session: Session) -> None:
        session.directory("unused")

    assert run(body, "--out", str(tmp_path / "file" / "inner")) == 2
    assert "--out DIR" in capsys.readouterr().err


ERRORS = [
    (errors.ReticentError("m"), 1),
    (errors.InputError("m"), 2),
    (errors.DataError("m"), 2),
    (errors.ConfigError("m"), 2),
    (errors.MissingExtraError("torch", "torch"), 2),
    (errors.UnsupportedError("m"), 2),
    (errors.GateError("m"), 3),
    (errors.BudgetExhaustedError("m"), 4),
    (errors.EvidenceError("m"), 5),
    (errors.BundleError("m"), 5),
    (errors.AuthenticationError("m"), 5),
    (ValueError("two\nlines"), 1),
    (KeyboardInterrupt(), 130),
]


@pytest.mark.parametrize(("error", "code"), ERRORS, ids=lambda value: type(value).__name__)
def test_errors_become_exit_codes_and_json(
    error: BaseException, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(raising(error), "--json", "--quiet") == code
    captured = capsys.readouterr()
    record = json.loads(captured.out)["error"]
    assert record["type"] == type(error).__name__
    assert record["exit_code"] == code
    assert record["message"]
    assert captured.err.count("\n") == 1
    assert run(raising(error), "--quiet") == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")


def test_an_unexpected_exception_is_one_line_unless_debugging(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(DEBUG_VARIABLE, raising=False)
    body = raising(ValueError("two\nlines"))
    assert run(body, "--quiet") == 1
    shown = capsys.readouterr().err
    assert shown.splitlines() == [
        "error: ValueError: two lines (run with --debug, or with RETICENT_DEBUG=1, "
        "for the traceback)"
    ]
    assert run(body, "--debug") == 1
    assert "Traceback" in capsys.readouterr().err
    monkeypatch.setenv(DEBUG_VARIABLE, "1")
    assert run(body) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_result_can_carry_an_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    def body(session: Session) -> None:
        session.result({"verdict": "contradicted"}, exit_code=3)

    assert run(body, "--json") == 3
    assert json.loads(capsys.readouterr().out) == {"verdict": "contradicted"}


def test_an_error_after_the_result_leaves_one_json_object(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def body(session: Session) -> None:
        done(session)
        raise errors.GateError("max_utility_loss failed")

    assert run(body, "--json") == 3
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"answer": 42}
    assert "error: max_utility_loss failed" in captured.err


def test_a_result_that_json_cannot_hold_is_an_error_in_json(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def body(session: Session) -> None:
        session.result({"thing": object()})

    assert run(body, "--json") == 1
    assert json.loads(capsys.readouterr().out)["error"]["type"] == "TypeError"


def test_a_verb_gives_exactly_one_result(capsys: pytest.CaptureFixture[str]) -> None:
    def twice(session: Session) -> None:
        done(session)
        done(session)

    assert run(twice, "--json") == 1
    assert json.loads(capsys.readouterr().out) == {"answer": 42}
    assert run(lambda session: None, "--json") == 1
    assert "without a result" in json.loads(capsys.readouterr().out)["error"]["message"]


def test_text_may_be_left_out_made_late_or_rich(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(lambda session: session.result({"a": 1}), "--quiet") == 0
    assert json.loads(capsys.readouterr().out) == {"a": 1}
    assert run(lambda session: session.result({"a": 1}, lambda: "late"), "--quiet") == 0
    assert capsys.readouterr().out == "late\n"
    table = Table("column")
    table.add_row("cell")
    assert run(lambda session: session.result({"a": 1}, table), "--quiet") == 0
    assert "cell" in capsys.readouterr().out


def test_json_never_asks_for_the_text(capsys: pytest.CaptureFixture[str]) -> None:
    def explode() -> str:
        raise AssertionError("not asked for")

    assert run(lambda session: session.result({"a": 1}, explode), "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"a": 1}


@pytest.mark.parametrize(
    "options", [["--sede", "3"], ["--seed", "x"], ["--seed", "-1"], ["x"], ["1", "2"]]
)
def test_a_misused_command_line_is_exit_2(
    options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(done, *options, "--json") == 2
    captured = capsys.readouterr()
    record = json.loads(captured.out)["error"]
    assert (record["type"], record["exit_code"]) == ("ConfigError", 2)
    assert "--help" in record["message"]
    assert run(done, *options) == 2
    assert capsys.readouterr().out == ""


def test_progress_draws_a_bar_on_a_terminal_only() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal, log = Terminal(), io.StringIO()
    for stream in (terminal, log):
        with Session(stderr=stream).progress("fitting", total=2) as advance:
            advance(1, note="fitting half")
            advance(1)
    assert "fitting" in terminal.getvalue()
    assert log.getvalue() == "fitting ...\n"


def test_jsonable_covers_what_verbs_hold() -> None:
    @dataclass
    class Pair:
        left: Path
        right: Any

    given = {
        Pillar.INPUT: Pair(Path("a/b"), (np.float32(0.5), np.nan)),
        "set": {1},
        "none": None,
        "flag": np.True_,
    }
    assert jsonable(given) == {
        "input": {"left": "a/b", "right": [0.5, None]},
        "set": [1],
        "none": None,
        "flag": True,
    }


def test_a_verb_must_take_a_session() -> None:
    def wrong(number: int) -> None:
        """Wrong."""

    with pytest.raises(TypeError, match="Session first"):
        verb(wrong)


def test_every_verb_of_the_application_has_the_shared_options(
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = [info.callback.__name__ for info in real_app.registered_commands if info.callback]
    assert {"plan", "doctor"} <= set(names)
    for name in names:
        assert call(real_app, [name.replace("_", "-"), "--help"]) == 0
        shown = capsys.readouterr().out
        for option in ("--json", "--seed", "--out", "--quiet"):
            assert option in shown


@pytest.mark.parametrize(("arguments", "part"), [(["--version"], "reticent "), ([], "Commands")])
def test_version_and_help(
    arguments: list[str], part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 0
    assert part in capsys.readouterr().out


def test_the_help_loads_nothing_heavy() -> None:
    """Time is the machine's affair; what costs it is what gets imported."""
    code = (
        "import json, sys; from reticent.cli import frame, app;"
        "frame.call(app, ['doctor', '--json']);"
        "print(json.dumps(sorted({m.partition('.')[0] for m in sys.modules})), file=sys.stderr)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    loaded = set(json.loads(ran.stderr.splitlines()[-1]))
    heavy = {"torch", "sklearn", "scipy", "onnxruntime", "matplotlib", "starlette", "pyarrow"}
    assert not loaded & heavy
    assert "checks" in json.loads(ran.stdout)
