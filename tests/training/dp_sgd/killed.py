"""What a run leaves behind that is killed in its midst."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable


def die(*_: object) -> None:
    """Nobody cleans up after this process."""
    os.kill(os.getpid(), signal.SIGKILL)


def in_a_child(body: Callable[[], object]) -> None:
    """Run `body` in a child process, which has to be killed in it."""
    child = os.fork()
    if child == 0:
        try:
            body()
        finally:
            os._exit(7)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
