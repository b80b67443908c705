"""Children that spend from a ledger until somebody kills them, and what must hold afterwards."""

from __future__ import annotations

import os
import random
import select
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

from reticent.errors import BudgetExhaustedError, ConfigError
from reticent.privacy.ledger import Cap, Ledger, pure_dp, verify
from reticent.privacy.ledger.store import _SQLiteTransaction

SLICES = 12
CAP = Cap(epsilon=0.1 * SLICES, delta=0.0)
SLICE = pure_dp(epsilon=0.1)
STEPS = 500


def template(folder: Path) -> Path:
    """A granted ledger at rest, to copy for each schedule."""
    ledger = Ledger.create(folder / "template.db")
    ledger.grant("people", ["a", "b", "c"], cap=CAP)
    ledger.close()
    return folder / "template.db"


def copy(source: Path, target: Path) -> Path:
    shutil.copy(source, target)
    shutil.copy(f"{source}.key", f"{target}.key")
    return target


def child(body: Callable[[], None]) -> int:
    """Fork; the child runs `body` and exits without any of the parent's clean-up."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        body()
        code = 0
    finally:
        os._exit(code)


def spender(
    path: Path, journal: Path, seed: int, gate: int, progress: int | None
) -> Callable[[], None]:
    """Spends until refused, noting in the journal what was promised, read and released.

    Waits for `gate` to close, so that all children race. Without `progress`, the child kills
    itself inside a transaction, after a random statement or between two steps; with it, it tells
    there of every step, so that somebody can kill it from outside, wherever it is by then.
    """

    def body() -> None:
        os.read(gate, 1)
        rng = random.Random(seed)
        note = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

        def write(text: str) -> None:
            os.write(note, f"{text}\n".encode())
            maybe_die()

        fuse = rng.randrange(4, STEPS)

        def maybe_die() -> None:
            nonlocal fuse
            if progress is not None:
                os.write(progress, b".")
            else:
                fuse -= 1
                if fuse <= 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        run = _SQLiteTransaction.run

        def dying(self: _SQLiteTransaction, statement: str, *parameters: object) -> object:
            maybe_die()
            rows = run(self, statement, *parameters)
            maybe_die()
            return rows

        _SQLiteTransaction.run = dying  # type: ignore[assignment, method-assign]
        ledger = Ledger.open(path)
        for number in range(100):
            # Some keys are shared between children, as retries are.
            key = f"shared-{number}" if rng.random() < 0.3 else f"{seed}-{number}"
            try:
                charge = ledger.reserve("people", SLICE, key=key)
                write(f"reserved {charge.id}")
                if rng.random() < 0.15:
                    ledger.cancel(charge.id)
                    write(f"cancelled {charge.id}")
                    continue
                ledger.start(charge.id)
                write(f"read {charge.id}")
                ledger.commit(charge.id)
                write(f"released {charge.id}")
            except BudgetExhaustedError:
                return
            except ConfigError:
                continue  # the other child was first with this key

    return body


def run_schedule(path: Path, seed: int, children: int = 3) -> dict[str, int]:
    """One schedule of children and kills on the ledger at `path`, checked; counts by outcome."""
    rng = random.Random(seed)
    journal = path.with_suffix(".journal")
    gate, start = os.pipe()
    pids: list[int] = []
    watched: dict[int, tuple[int, int]] = {}
    for i in range(children):
        progress, tell = os.pipe() if i % 2 == 0 else (None, None)

        def run(i: int = i, tell: int | None = tell) -> None:
            os.close(start)
            spender(path, journal, 1000 * seed + i, gate, tell)()

        pids.append(child(run))
        if progress is not None and tell is not None:
            os.close(tell)
            watched[progress] = (pids[-1], rng.randrange(STEPS))
    os.close(start)
    os.close(gate)
    kill_on_the_way(watched)
    status = [os.waitpid(pid, 0)[1] for pid in pids]
    assert all(os.WIFSIGNALED(code) or os.WEXITSTATUS(code) == 0 for code in status)
    killed = sum(os.WIFSIGNALED(code) for code in status)
    return check(path, journal) | {"killed": killed}


def kill_on_the_way(watched: dict[int, tuple[int, int]]) -> None:
    """Kill each child once its pipe has told of so many steps, unless it ends before.

    Counting steps, not seconds, keeps a fast machine from finishing before the kill.
    """
    left = dict(watched)
    while left:
        for pipe in select.select(list(left), [], [])[0]:
            pid, steps = left[pipe]
            told = len(os.read(pipe, 4096))
            left[pipe] = (pid, steps - told)
            if told and steps < told:
                os.kill(pid, signal.SIGKILL)
            if not told or steps < told:
                os.close(pipe)
                del left[pipe]


def check(path: Path, journal: Path) -> dict[str, int]:
    """Assert that nothing was overspent, lost or released uncharged."""
    ledger = Ledger.open(path)
    lines = journal.read_text().splitlines() if journal.exists() else []
    told: dict[str, list[str]] = {}
    for line in lines:
        word, _, name = line.partition(" ")
        told.setdefault(word, []).append(name)
    verified = verify(ledger.store, ledger.key.public)
    state = {name: ledger.charge(name).state for names in told.values() for name in names}
    # Each charge pays for one reading and one output, and every one of these is charged.
    for word in ("read", "released"):
        assert len(told.get(word, [])) == len(set(told.get(word, [])))
    assert all(state[name] in ("started", "committed") for name in told.get("read", []))
    assert all(state[name] == "committed" for name in told.get("released", []))
    assert all(state[name] == "cancelled" for name in told.get("cancelled", []))
    assert len(told.get("read", [])) <= SLICES
    # What was acknowledged is there, and the sum is exactly what stands.
    kinds = [entry for entry in ledger.history() if entry["kind"] in ("reserve", "cancelled")]
    standing = sum(1 if entry["kind"] == "reserve" else -1 for entry in kinds)
    (balance,) = ledger.balances()
    assert balance.spent.pure == standing * SLICE.pure
    assert standing <= SLICES
    ledger.close()
    return {"read": len(told.get("read", [])), "charges": verified.charges}
