"""Limits: the bucket's arithmetic, the body's cap, the executor's bound."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from reticent.errors import ConfigError
from reticent.service.executor import BoundedExecutor
from reticent.service.limits import (
    ClientGoneError,
    Limits,
    RateLimiter,
    network_of,
    read_body,
)
from reticent.service.refusal import RefusalError


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_bucket_grants_its_burst_then_its_rate() -> None:
    clock = Clock()
    limiter = RateLimiter(rate=2.0, burst=3, monotonic=clock)
    assert [limiter.wait("a") for _ in range(3)] == [0.0] * 3
    assert limiter.wait("a") == pytest.approx(0.5)
    clock.now += 0.5
    assert limiter.wait("a") == 0.0
    assert limiter.wait("a") == pytest.approx(0.5)


def test_over_any_time_no_more_than_burst_plus_rate_is_granted() -> None:
    clock = Clock()
    limiter = RateLimiter(rate=10.0, burst=5, monotonic=clock)
    granted = 0
    for _ in range(10_000):
        clock.now += 0.001
        granted += limiter.wait("a") == 0.0
    assert granted == pytest.approx(5 + 10.0 * 10.0, abs=1)


def test_invented_names_do_not_fill_the_memory() -> None:
    limiter = RateLimiter(rate=1.0, burst=1, most=10, monotonic=Clock())
    assert limiter.wait("a") == 0.0
    for name in range(9):
        limiter.wait(str(name))
        assert limiter.wait("a") > 0.0, "heard of again, so not the one to forget"
    for name in range(1000):
        limiter.wait(f"other {name}")
    assert len(limiter._buckets) == 10


@pytest.mark.parametrize(
    ("one", "other", "together"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8::1", "2001:db8::ffff:2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2%eth1", True),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("", "", True),
    ],
)
def test_failures_of_one_network_count_together(one: str, other: str, together: bool) -> None:
    assert (network_of(one) == network_of(other)) is together


def test_keys_do_not_share_a_bucket() -> None:
    limiter = RateLimiter(rate=1.0, burst=1, monotonic=Clock())
    assert limiter.wait("a") == 0.0
    assert limiter.wait("b") == 0.0
    assert limiter.wait("a") > 0.0


def receiver(*messages: dict[str, Any]) -> Any:
    left = list(messages)

    async def receive() -> dict[str, Any]:
        return left.pop(0)

    receive.left = left  # type: ignore[attr-defined]
    return receive


def part(body: bytes, more: bool) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


def test_a_body_is_joined() -> None:
    receive = receiver(part(b"ab", True), part(b"c", True), part(b"", False))
    assert asyncio.run(read_body(receive, stated=None, max_bytes=3)) == b"abc"


def test_a_body_stated_too_long_is_not_read() -> None:
    receive = receiver(part(b"x" * 11, False))
    with pytest.raises(RefusalError) as caught:
        asyncio.run(read_body(receive, stated=11, max_bytes=10))
    assert caught.value.status == 413
    assert len(receive.left) == 1


def test_a_body_is_cut_off_where_it_gets_too_long() -> None:
    receive = receiver(*[part(b"x" * 6, True)] * 5)
    with pytest.raises(RefusalError) as caught:
        asyncio.run(read_body(receive, stated=None, max_bytes=10))
    assert caught.value.status == 413
    assert len(receive.left) == 3


def test_a_client_that_hangs_up_is_noticed() -> None:
    with pytest.raises(ClientGoneError):
        asyncio.run(read_body(receiver({"type": "http.disconnect"}), stated=None, max_bytes=10))


def test_the_executor_refuses_one_more_than_its_places_and_recovers() -> None:
    async def run() -> None:
        executor = BoundedExecutor(threads=1, queue=2)
        gate = threading.Event()
        waiting = [asyncio.create_task(executor.run(gate.wait, 10)) for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(RefusalError) as caught:
            await executor.run(int)
        assert caught.value.status == 503
        assert caught.value.headers["retry-after"] == "1"
        gate.set()
        assert await asyncio.gather(*waiting) == [True] * 3
        assert await executor.run(int, "7") == 7
        executor.close()
        with pytest.raises(RefusalError):
            await executor.run(int)

    asyncio.run(run())


def test_a_client_that_leaves_does_not_free_a_place_that_its_call_still_holds() -> None:
    async def run() -> None:
        executor = BoundedExecutor(threads=1, queue=0)
        gate, begun = threading.Event(), threading.Event()

        def work() -> bool:
            begun.set()
            return gate.wait(10)

        task = asyncio.create_task(executor.run(work))
        await asyncio.to_thread(begun.wait, 10)
        task.cancel()
        await asyncio.sleep(0.01)
        assert executor.pending == 1
        with pytest.raises(RefusalError):
            await executor.run(int)
        gate.set()
        await asyncio.to_thread(executor.close)
        assert executor.pending == 0

    asyncio.run(run())


def test_an_error_in_a_thread_reaches_the_caller_and_frees_its_place() -> None:
    async def run() -> None:
        executor = BoundedExecutor(threads=1, queue=0)
        for _ in range(3):
            with pytest.raises(ValueError, match="invalid literal"):
                await executor.run(int, "x")
        executor.close()

    asyncio.run(run())


@pytest.mark.parametrize(
    "wrong", [{"rate": 0.0}, {"queue": -1}, {"body_bytes": 0}, {"rate": float("nan")}]
)
def test_limits_that_limit_nothing_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Limits(**wrong)
