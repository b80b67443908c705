"""Chunks of shadow models trained on the machines of a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from reticent.errors import MissingExtraError

Made = TypeVar("Made")
Given = TypeVar("Given")


def spread(
    work: Callable[[Given, int], Made], given: Given, starts: list[int]
) -> Iterator[tuple[int, Made]]:
    """`work(given, start)` of every start, in the order in which the cluster finishes them.

    Uses the cluster that this process is connected to, else the one that RAY_ADDRESS names, else
    starts one on this machine and takes it down again. Ray sends `given` by serialising Python
    objects: the cluster must be the auditor's own. Each task takes one core. Raises
    `MissingExtraError` without Ray.
    """
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError("ray", "cluster") from error

    was_running = ray.is_initialized()
    if not was_running:
        ray.init(log_to_driver=False, include_dashboard=False, configure_logging=False)
    try:
        task = ray.remote(num_cpus=1)(work)
        shared = ray.put(given)
        waiting = {task.remote(shared, start): start for start in starts}
        while waiting:
            done, _left = ray.wait(list(waiting), num_returns=1)
            for reference in done:
                yield waiting.pop(reference), ray.get(reference)
    finally:
        if not was_running:
            ray.shutdown()
