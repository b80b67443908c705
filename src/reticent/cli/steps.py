"""Progress of long work, step by step: a moving line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from reticent.cli.frame import Session


@contextlib.contextmanager
def steps(session: Session, title: str) -> Iterator[Callable[[str], None]]:
    """Yields `report(text)`, to be told each step as it begins."""
    started = time.monotonic()

    def line(text: str) -> None:
        session.note(f"[{time.monotonic() - started:5.0f} s] {text}")

    if session.quiet or not session.stderr.isatty():
        yield line
        return
    with session.progress(title) as advance:

        def report(text: str) -> None:
            line(text)
            advance(1, note=text.splitlines()[0])

        yield report
