"""The frame that every verb runs in: shared options, output streams, exit codes.

A verb is a function whose first parameter is a `Session`; `@verb` adds the shared options and
maps what it raises to exit codes (DESIGN section 4):

    @verb
    def train(session: Session, recipe: Annotated[Path, typer.Argument(help="...")]) -> None:
        \"\"\"Train the model of a recipe.\"\"\"
        with session.progress("training", total=12) as advance:
            ...
        session.result({"loss": 0.1}, "loss 0.1")

Standard output carries the result alone: text, or one JSON object under --json. Everything else
goes to standard error; under --json even what libraries print does.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import json
import math
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, is_dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol, TextIO, get_type_hints

import typer

from reticent.errors import ConfigError, ReticentError

if TYPE_CHECKING:
    from rich.console import RenderableType

    Text = RenderableType | Callable[[], RenderableType] | None
else:
    Text = Any

FAILURE, BAD_INPUT, INTERRUPTED = 1, 2, 130
DEBUG_VARIABLE = "RETICENT_DEBUG"

Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="TABLE.KEY=VALUE", help="Change one value of the recipe; repeatable."
    ),
]

_SHARED: dict[str, tuple[Any, Any]] = {
    "as_json": (
        Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")],
        False,
    ),
    "seed": (
        Annotated[
            int | None,
            typer.Option("--seed", min=0, help="Seed of experiments; never of protection."),
        ],
        None,
    ),
    "out": (
        Annotated[
            Path | None,
            typer.Option("--out", metavar="DIR", file_okay=False, help="Where to write results."),
        ],
        None,
    ),
    "quiet": (
        Annotated[bool, typer.Option("--quiet", "-q", help="Only the result and errors.")],
        False,
    ),
    "debug": (
        Annotated[bool, typer.Option("--debug", help="Show the traceback of a failure.")],
        False,
    ),
}


class Advance(Protocol):
    """Moves a progress display on."""

    def __call__(self, steps: float = 1, *, note: str | None = None) -> None:
        """Count `steps` more as done; `note` replaces the description."""


@dataclass
class Session:
    """What one run of a verb was asked for, and its way to talk to the user."""

    as_json: bool = False
    seed: int | None = None
    out: Path | None = None
    quiet: bool = False
    debug: bool = False
    stdout: TextIO = field(default_factory=lambda: sys.stdout)
    stderr: TextIO = field(default_factory=lambda: sys.stderr)
    exit_code: int = 0
    has_result: bool = False

    def seed_or(self, default: int) -> int:
        """The seed from the command line, else `default` (a recipe's own)."""
        return default if self.seed is None else self.seed

    def directory(self, default: str | Path) -> Path:
        """--out, else `default`, created where absent; `ConfigError` where it can't be written."""
        path = self.out or Path(default)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"Expected a folder that can be made, got out={str(path)!r}: {error.strerror}. "
                "Choose another with --out DIR."
            ) from None
        if not os.access(path, os.W_OK):
            raise ConfigError(
                f"Expected a folder that can be written, got out={str(path)!r}. "
                "Choose another with --out DIR."
            )
        return path

    def note(self, text: str) -> None:
        """A line for the human on standard error; silent under --quiet."""
        if not self.quiet:
            print(text, file=self.stderr, flush=True)

    def warn(self, text: str) -> None:
        """A warning on standard error, under --quiet too: it may change a reader's conclusion."""
        print(f"warning: {text}", file=self.stderr, flush=True)

    @contextlib.contextmanager
    def progress(self, description: str, total: float | None = None) -> Iterator[Advance]:
        """A progress display on standard error; yields `advance(steps=1, note=None)`.

        On a terminal a bar; elsewhere one line at the start, so that logs stay readable.
        """
        if self.quiet or not self.stderr.isatty():
            self.note(f"{description} ...")
            yield _ignore
            return
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        with Progress(*columns, console=Console(file=self.stderr), transient=True) as bar:
            task = bar.add_task(description, total=total)

            def advance(steps: float = 1, *, note: str | None = None) -> None:
                bar.update(task, advance=steps, description=note or description)

            yield advance

    def result(self, record: Mapping[str, Any], text: Text = None, *, exit_code: int = 0) -> None:
        """Print the verb's one result: `record` under --json, else `text`.

        `text` is a string, anything that rich renders, or a function that returns one; left out,
        the record is shown as indented JSON. `exit_code` is what the verb ends with.
        """
        if self.has_result:
            raise RuntimeError("A verb prints one result, and this one already did.")
        if self.as_json:
            self._emit(record)
        else:
            shown = text() if callable(text) else text
            self._show(json.dumps(jsonable(record), indent=2) if shown is None else shown)
        self.has_result, self.exit_code = True, exit_code

    def fail(self, error: BaseException) -> int:
        """Tell the user what stopped the verb; returns the exit code."""
        code = _exit_code(error)
        message = _message(error)
        if self.debug:
            print("".join(traceback.format_exception(error)), end="", file=self.stderr)
        if self.as_json and not self.has_result:
            record = {"type": type(error).__name__, "message": message, "exit_code": code}
            self._emit({"error": record})
        hint = ""
        if code == FAILURE and not self.debug and not isinstance(error, ReticentError):
            hint = f" (run with --debug, or with {DEBUG_VARIABLE}=1, for the traceback)"
        print(f"error: {message}{hint}", file=self.stderr, flush=True)
        return code

    def _show(self, shown: RenderableType) -> None:
        if isinstance(shown, str):
            print(shown, file=self.stdout, flush=True)
            return
        from rich.console import Console

        Console(file=self.stdout, highlight=False).print(shown)

    def _emit(self, record: Mapping[str, Any]) -> None:
        print(json.dumps(jsonable(record), allow_nan=False), file=self.stdout, flush=True)


def verb(function: Callable[..., None]) -> Callable[..., None]:
    """`function(session, ...)` as a command: shared options added, errors mapped to exit codes."""
    hints = get_type_hints(function, include_extras=True)
    first, *own = inspect.signature(function).parameters.values()
    if hints.get(first.name) is not Session:
        raise TypeError(f"Expected {function.__name__} to take a Session first, got {first}.")
    parameters = [item.replace(annotation=hints[item.name]) for item in own]
    for name, (annotation, default) in _SHARED.items():
        parameters.append(
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
            )
        )

    @functools.wraps(function)
    def command(**values: Any) -> None:
        shared = {name: values.pop(name) for name in _SHARED}
        shared["debug"] = shared["debug"] or _debug_from_environment()
        session = Session(**shared)
        code = _run(session, lambda: function(session, **values))
        if code:
            raise typer.Exit(code)

    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {item.name: item.annotation for item in parameters}
    return command


def call(app: typer.Typer, arguments: list[str]) -> int:
    """Run `app` on `arguments`; returns the exit code and never lets an exception out."""
    session = Session(as_json="--json" in arguments, debug=_debug_from_environment())
    try:
        code = app(args=arguments or ["--help"], prog_name="reticent", standalone_mode=False)
    except typer.Abort:
        code = session.fail(KeyboardInterrupt())
    except Exception as error:
        # Only the parsing of the command line can get here: `verb` catches what verbs raise.
        return session.fail(_usage(error))
    return code if isinstance(code, int) else 0


def jsonable(value: Any) -> Any:
    """`value` as JSON can hold it; numpy values become lists and numbers, NaN and infinity null."""
    if isinstance(value, Enum):
        return jsonable(value.value)
    if isinstance(value, bool | int | str | None):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(jsonable(key)): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [jsonable(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "to_json"):
        return jsonable(value.to_json())
    if is_dataclass(value) and not isinstance(value, type):
        return jsonable(asdict(value))
    if hasattr(value, "tolist"):
        return jsonable(value.tolist())
    raise TypeError(f"Expected a value that JSON can hold, got {type(value).__name__}={value!r}.")


def _run(session: Session, body: Callable[[], None]) -> int:
    redirected = contextlib.redirect_stdout(session.stderr) if session.as_json else None
    try:
        with redirected or contextlib.nullcontext():
            body()
        if not session.has_result:
            raise RuntimeError("The verb ended without a result.")
    except typer.Exit as stop:
        return stop.exit_code
    except (Exception, KeyboardInterrupt) as error:
        return session.fail(error)
    return session.exit_code


def _ignore(steps: float = 1, *, note: str | None = None) -> None:
    """Progress that nobody sees."""


def _exit_code(error: BaseException) -> int:
    if isinstance(error, ReticentError):
        return error.exit_code
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return INTERRUPTED
    return FAILURE


def _message(error: BaseException) -> str:
    """One clear line; a `ReticentError` says it all itself, and may take several."""
    if isinstance(error, ReticentError):
        return str(error)
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return "interrupted"
    return " ".join(f"{type(error).__name__}: {error}".split())


def _usage(error: Exception) -> BaseException:
    """What the command-line parser refused, as a `ConfigError`; anything else as it is."""
    describe = getattr(error, "format_message", None)
    if describe is None:
        return error
    context = getattr(error, "ctx", None)
    path = "reticent" if context is None else str(context.command_path)
    message = " ".join(str(describe()).split()).rstrip(".")
    return ConfigError(f"{message}. See: {path} --help")


def _debug_from_environment() -> bool:
    return os.environ.get(DEBUG_VARIABLE, "") not in ("", "0")
