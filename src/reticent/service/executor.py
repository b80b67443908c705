"""The bounded executor: models run here, not on the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from reticent.service.refusal import busy

T = TypeVar("T")


class BoundedExecutor:
    """`threads` calls at once and `queue` waiting; one more is refused with 503.

    An unbounded queue would answer everybody late; a bounded one answers some in time and tells
    the others when to come back.
    """

    def __init__(self, *, threads: int, queue: int) -> None:
        self._pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="reticent-model")
        self._capacity = threads + queue
        self._pending = 0
        self._lock = threading.Lock()

    @property
    def pending(self) -> int:
        """Calls running or waiting."""
        return self._pending

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """`function(*arguments)` in a thread. Raises `RefusalError` 503 when the queue is full."""
        with self._lock:
            if self._pending >= self._capacity:
                raise busy(f"All {self._capacity} places in the queue are taken.")
            self._pending += 1
        try:
            future = self._pool.submit(function, *arguments)
        except RuntimeError:  # the pool was shut down
            self._release(None)
            raise busy("The server is shutting down.") from None
        # On the thread's own completion, not the awaiting task's: a client that hangs up must
        # not free a place that its call still occupies.
        future.add_done_callback(self._release)
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Finish what was accepted, then stop the threads."""
        self._pool.shutdown(wait=True)

    def _release(self, _: Future[Any] | None) -> None:
        with self._lock:
            self._pending -= 1
