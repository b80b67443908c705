"""The server's log: one JSON object a line, and nothing about who asked or what.

The log is part of the transcript: whoever reads it is an adversary like the server itself. So
events carry only what the service chose to name, and lines of other libraries, which may hold
addresses or exception messages with values in them, are reduced to their logger and exception
type.
"""

from __future__ import annotations

import json
import logging
import time
from typing import TextIO

# Not "uvicorn.access": it has no handler when access_log is off, and must not get one here.
_FOREIGN = ("uvicorn", "uvicorn.error", "asyncio", "concurrent.futures")


class ServiceLog:
    """Writes events to `stream`, each kind of failure with the place in the code, no values."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def event(self, event: str, **fields: str | int | float | list[str]) -> None:
        """Write one event. `fields` are names, counts and versions: never what a client sent."""
        line = {"time": round(time.time(), 3), "event": event, **fields}
        print(json.dumps(line), file=self._stream, flush=True)

    def failure(self, event: str, error: BaseException, **fields: str) -> None:
        """Write that something of ours failed: type and place, not the message.

        The message of an exception that numpy or a model raised may hold values from a request.
        """
        self.event(event, **fields, error=type(error).__name__, place=_place(error))

    def adopt_foreign(self) -> None:
        """Route the warnings of uvicorn and asyncio through this log, stripped."""
        handler = _StrippedHandler(self)
        for name in _FOREIGN:
            logger = logging.getLogger(name)
            logger.handlers = [handler]
            logger.propagate = False
            logger.setLevel(logging.WARNING)


class _StrippedHandler(logging.Handler):
    def __init__(self, log: ServiceLog) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        self._log.event(
            "library",
            logger=record.name,
            level=record.levelname,
            error="" if error is None else type(error).__name__,
        )


def _place(error: BaseException) -> str:
    trace = error.__traceback__
    if trace is None:
        return ""
    while trace.tb_next is not None:
        trace = trace.tb_next
    code = trace.tb_frame.f_code
    module = trace.tb_frame.f_globals.get("__name__", "?")
    return f"{module}.{code.co_qualname}:{trace.tb_lineno}"
