"""The server half: ciphertexts in, ciphertexts out, computed in processes of their own."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from reticent.errors import DataError, InputError
from reticent.inference.channel import Tensors, TensorSpec
from reticent.inference.ckks.envelope import HEADER_BYTES, header
from reticent.inference.ckks.server import EncryptedServer
from reticent.inference.sealed import worker
from reticent.inference.sealed.files import load_plan
from reticent.inference.sealed.spool import KeySpool

T = TypeVar("T")
_SLACK = 16 << 10  # the library's own headers, and what frames the parts


class SealedServer:
    """Answers encrypted records for clients that uploaded their evaluation keys.

    `spool` is a folder for those keys (None: a temporary one). `processes` compute side by side
    (None: one per core), each with up to `most_loaded_bytes` of keys in memory. A request that
    ends its process is refused, and the process replaced.
    """

    cheap = False

    def __init__(
        self,
        folder: Path,
        *,
        spool: Path | None = None,
        processes: int | None = None,
        most_spooled_bytes: int = 4 << 30,
        most_loaded_bytes: int = 1 << 30,
        most_per_owner: int = 4,
    ) -> None:
        plan = load_plan(folder)
        self._folder = folder
        self._processes = processes or os.cpu_count() or 1
        self._most_loaded = most_loaded_bytes
        parts = len(plan.layers[0].columns)
        self.most_request_bytes = HEADER_BYTES + parts * (plan.parameters.ciphertext_bytes + _SLACK)
        largest = plan.parameters.key_bytes(len(plan.steps)) * 51 // 50 + 4 * _SLACK
        self._temporary = None if spool is not None else tempfile.TemporaryDirectory()
        self.spool = KeySpool(
            spool or Path(self._temporary.name if self._temporary else ""),
            plan=plan.digest,
            largest=largest,
            most_bytes=max(most_spooled_bytes, largest),
            most_per_owner=most_per_owner,
        )
        self.inputs = (TensorSpec(name="ciphertext", dtype="object", shape=(None,)),)
        self.outputs = (TensorSpec(name="answer", dtype="object", shape=(None,)),)
        self._lock = threading.Lock()
        self._pool: ProcessPoolExecutor | None = None

    @property
    def processes(self) -> int:
        """How many requests are computed at once."""
        return self._processes

    def admit(self, keys: bytes) -> None:
        """Check uploaded keys with this 16-byte id; bad ones are dropped from the spool.

        Raises `DataError` or `BundleError` for keys that the network can't use.
        """
        path = self.spool.path(keys)
        try:
            self._run([lambda pool: pool.submit(worker.admit, path)])
        except (DataError, InputError):
            self.spool.drop(keys)
            raise

    def answer(self, request: Tensors) -> Tensors:
        """Encrypted answers (batch,); raises as `EncryptedServer.answer`, `BundleError` for keys
        that are not here.
        """
        sealed = request.get("ciphertext")
        if sealed is None or len(request) != 1 or not self.inputs[0].matches(sealed):
            raise InputError(f"Expected exactly the input {self.inputs[0]}, got {sorted(request)}.")
        if not all(isinstance(each, bytes) for each in sealed):
            raise InputError("Expected encrypted records as bytes, not as text: use binary data.")
        paths = [self.spool.path(header(each).keys) for each in sealed]
        calls = [
            _submitting(worker.answer, path, each) for path, each in zip(paths, sealed, strict=True)
        ]
        made = np.empty(len(sealed), dtype=object)
        for place, reply in enumerate(self._run(calls)):
            made[place] = reply
        return {"answer": made}

    def warm_up(self) -> None:
        """Start the processes, so that the first client doesn't wait for them."""
        pool = self._ready()
        for started in [pool.submit(os.getpid) for _ in range(self._processes)]:
            started.result()

    def close(self) -> None:
        """End the processes; delete a temporary spool."""
        with self._lock:
            if self._pool is not None:
                self._pool.shutdown(wait=True, cancel_futures=True)
                self._pool = None
        if self._temporary is not None:
            self._temporary.cleanup()

    def _run(self, calls: Sequence[Callable[[ProcessPoolExecutor], Future[T]]]) -> list[T]:
        for attempt in (1, 2):
            pool = self._ready()
            try:
                futures = [call(pool) for call in calls]
                return [future.result() for future in futures]
            except BrokenProcessPool:
                # Perhaps another's request ended the process: ours gets one more chance.
                self._replace(pool)
                if attempt == 2:
                    raise DataError(
                        "The ciphertext or keys ended the process that read them. Encrypt again "
                        "with the model's current client files."
                    ) from None
        raise AssertionError("unreachable")

    def _ready(self) -> ProcessPoolExecutor:
        with self._lock:
            if self._pool is None:
                # Not forked: a fork of a process with threads may inherit a held lock.
                self._pool = ProcessPoolExecutor(
                    max_workers=self._processes,
                    mp_context=multiprocessing.get_context("spawn"),
                    initializer=worker.start,
                    initargs=(self._folder, self._most_loaded),
                )
            return self._pool

    def _replace(self, broken: ProcessPoolExecutor) -> None:
        with self._lock:
            if self._pool is broken:
                self._pool = None
        broken.shutdown(wait=False, cancel_futures=True)


class LocalSealedServer:
    """The same answers in this process for one client: for measurements and tests."""

    def __init__(self, folder: Path, keys: bytes) -> None:
        self._server = EncryptedServer(load_plan(folder), keys)

    def answer(self, request: Tensors) -> Tensors:
        """Encrypted answers (batch,)."""
        made = np.empty(len(request["ciphertext"]), dtype=object)
        for place, each in enumerate(request["ciphertext"]):
            made[place] = self._server.answer(each)
        return {"answer": made}


def _submitting(
    function: Callable[..., T], *arguments: Any
) -> Callable[[ProcessPoolExecutor], Future[T]]:
    return lambda pool: pool.submit(function, *arguments)
