"""`reticent doctor`: whether this machine can do what Reticent needs, and what to do if not."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from reticent.cli.frame import BAD_INPUT, Session, verb

if TYPE_CHECKING:
    from rich.table import Table

# Each extra's packages with their lowest version, as pyproject.toml states them (a test compares).
EXTRAS: dict[str, dict[str, str]] = {
    "client": {"onnxruntime": "1.19"},
    "torch": {"torch": "2.6", "scikit-learn": "1.5", "scipy": "1.13", "safetensors": "0.4"},
    "publish": {"onnx": "1.16", "onnxscript": "0.2"},
    "serve": {
        "safetensors": "0.4",
        "starlette": "0.40",
        "uvicorn": "0.30",
        "httptools": "0.6",
        "prometheus-client": "0.20",
    },
    "data": {"pyarrow": "16", "mlxtend": "0.23", "scikit-learn": "1.5"},
    "cluster": {"ray": "2.30"},
    "postgres": {"psycopg": "3.1", "psycopg-binary": "3.1"},
    "dp": {"dp-accounting": "0.6"},
    "release": {"scipy": "1.13", "opendp": "0.13"},
    "encrypted": {"seal-python": "4.4"},
    "encrypted-tenseal": {"tenseal": "0.3.18", "zstandard": "0.22"},
    "report": {"matplotlib": "3.8"},
}
PYTHON_AT_LEAST = (3, 11)
# A clock before this release was written can't judge certificates or expiry dates.
CLOCK_AT_LEAST = 1_735_689_600


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing looked at: `absent` is a choice, `failed` needs the remedy."""

    name: str
    state: Literal["ok", "absent", "failed"]
    found: str
    remedy: str = ""


@verb
def doctor(session: Session) -> None:
    """Check this machine: Python, extras, randomness, sockets."""
    checks = list(examine(session.out))
    failed = [check.name for check in checks if check.state == "failed"]
    record = {"healthy": not failed, "failed": failed, "checks": [asdict(item) for item in checks]}
    session.result(record, lambda: _table(checks), exit_code=BAD_INPUT if failed else 0)


def examine(out: Path | None = None) -> Iterator[Check]:
    """All checks in turn; imports no extra, so that a broken one can't stop the examination."""
    yield _python()
    for extra in EXTRAS:
        yield _extra(extra)
    yield _torch_build()
    yield _threads()
    yield _onnxruntime()
    yield _randomness()
    yield _clock()
    yield _writable("temporary folder", Path(tempfile.gettempdir()))
    yield _writable("output folder", out or Path.cwd())
    yield _data_folder()
    yield _loopback()


def _python() -> Check:
    found = f"{platform.python_implementation()} {platform.python_version()}"
    if sys.version_info < PYTHON_AT_LEAST:
        wanted = ".".join(map(str, PYTHON_AT_LEAST))
        return Check(name="python", state="failed", found=found, remedy=f"Use Python {wanted}+.")
    return Check(name="python", state="ok", found=found)


def _extra(extra: str) -> Check:
    name = f"extra {extra}"
    install = f"pip install 'reticent[{extra}]'"
    versions = {package: _version(package) for package in EXTRAS[extra]}
    found = ", ".join(f"{package} {version or 'absent'}" for package, version in versions.items())
    old = [
        f"{package} >= {lowest}"
        for package, lowest in EXTRAS[extra].items()
        if (version := versions[package]) and release(version) < release(lowest)
    ]
    if old:
        remedy = f"Expected {', '.join(old)}. Run: {install}"
        return Check(name=name, state="failed", found=found, remedy=remedy)
    if not all(versions.values()):
        return Check(name=name, state="absent", found=found, remedy=f"If needed: {install}")
    return Check(name=name, state="ok", found=found)


def _torch_build() -> Check:
    """CPU or CUDA, from the version's local part and the libraries beside it: no import."""
    version = _version("torch")
    if version is None:
        return Check(name="torch build", state="absent", found="torch absent")
    local = version.partition("+")[2]
    is_cuda = local.startswith("cu") or _version("nvidia-cuda-runtime") is not None
    is_cuda = is_cuda or _version("nvidia-cuda-runtime-cu12") is not None
    kind = "CUDA" if is_cuda and local != "cpu" else "CPU"
    return Check(name="torch build", state="ok", found=f"{version} ({kind})")


def _threads() -> Check:
    cores = _cores()
    asked = os.environ.get("OMP_NUM_THREADS")
    if asked is None:
        return Check(name="threads", state="ok", found=f"{cores} cores, OMP_NUM_THREADS not set")
    found = f"{cores} cores, OMP_NUM_THREADS={asked}"
    if not asked.isdigit() or int(asked) < 1:
        remedy = f"Set OMP_NUM_THREADS to a number from 1 to {cores}, or unset it."
        return Check(name="threads", state="failed", found=found, remedy=remedy)
    if int(asked) > cores:
        remedy = f"More threads than cores slow both down: set OMP_NUM_THREADS={cores}."
        return Check(name="threads", state="ok", found=found, remedy=remedy)
    return Check(name="threads", state="ok", found=found)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _onnxruntime() -> Check:
    """Whether the client's run time is there: distributions under several names provide it."""
    if importlib.util.find_spec("onnxruntime") is None:
        remedy = "If this machine is a client: pip install 'reticent[client]'"
        return Check(name="onnxruntime", state="absent", found="no module", remedy=remedy)
    return Check(name="onnxruntime", state="ok", found=_version("onnxruntime") or "module found")


def _randomness() -> Check:
    remedy = "The system's entropy source is not ready: noise and keys would not protect anyone."
    try:
        first, second = os.urandom(32), os.urandom(32)
        if hasattr(os, "getrandom"):
            os.getrandom(1, os.GRND_NONBLOCK)
    except OSError as error:
        return Check(name="secure randomness", state="failed", found=str(error), remedy=remedy)
    if first == second:
        found = "two draws of 32 bytes are equal"
        return Check(name="secure randomness", state="failed", found=found, remedy=remedy)
    return Check(name="secure randomness", state="ok", found="operating system")


def _clock() -> Check:
    now = time.time()
    found = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))
    if now < CLOCK_AT_LEAST:
        remedy = "Set the clock: expiry dates and limits rest on it."
        return Check(name="clock", state="failed", found=found, remedy=remedy)
    return Check(name="clock", state="ok", found=found)


def _writable(name: str, folder: Path) -> Check:
    """Write and remove a file: permission bits alone don't know of full or read-only disks."""
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        with tempfile.NamedTemporaryFile(dir=nearest) as probe:
            probe.write(b"reticent")
    except OSError as error:
        found = f"{folder}: {error.strerror}"
        remedy = "Choose another with --out DIR, or TMPDIR for temporary files."
        return Check(name=name, state="failed", found=found, remedy=remedy)
    return Check(name=name, state="ok", found=str(folder))


def _data_folder() -> Check:
    named = os.environ.get("RETICENT_DATA")
    if not named:
        remedy = "Embedded sets work without; for the real sets set RETICENT_DATA to their folder."
        return Check(name="real data", state="absent", found="RETICENT_DATA not set", remedy=remedy)
    if not Path(named).is_dir():
        found = f"RETICENT_DATA={named} is no folder"
        remedy = "Set RETICENT_DATA to the folder that holds the real sets, or unset it."
        return Check(name="real data", state="failed", found=found, remedy=remedy)
    return Check(name="real data", state="ok", found=named)


def _loopback() -> Check:
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = int(server.getsockname()[1])
            with socket.create_connection(("127.0.0.1", port), timeout=2):
                return Check(name="loopback socket", state="ok", found="127.0.0.1 answers")
    except OSError as error:
        remedy = "reticent serve and demo need it: allow TCP on 127.0.0.1."
        return Check(name="loopback socket", state="failed", found=str(error), remedy=remedy)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def release(version: str) -> tuple[int, ...]:
    """The release numbers of a version, enough for "at least": "2.13.0+cpu" is (2, 13, 0)."""
    numbers = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in numbers[0].split(".")) if numbers else ()


def _table(checks: list[Check]) -> Table:
    from rich.table import Table

    table = Table(box=None, header_style="bold")
    for title in ("check", "state", "found", "what to do"):
        table.add_column(title, overflow="fold")
    for check in checks:
        table.add_row(check.name, check.state, check.found, check.remedy)
    return table
