"""Others' software in environments of their own, made on first use and kept.

The folder is RETICENT_PEERS, by default one in the system's temporary folder. What can't be made
is a skip with its reason, never a pass.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from pathlib import Path

import pytest

TRITONCLIENT = "tritonclient[http]==2.73.0"
PYTRITON = "nvidia-pytriton==0.7.0"
STUB_NUMPY = "numpy<2"  # with numpy 2 Triton's Python backend answers 200 and zero bytes


def folder() -> Path:
    """Where the environments live."""
    default = Path(tempfile.gettempdir()) / "reticent-peers"
    made = Path(os.environ.get("RETICENT_PEERS", default))
    made.mkdir(parents=True, exist_ok=True)
    return made


def environment(name: str, *packages: str) -> Path:
    """The Python of a virtual environment that holds `packages`; skips when it can't be made."""
    home = folder() / name
    python = home / "bin" / "python"
    stamp = home / "made"
    if not stamp.exists() or stamp.read_text() != " ".join(packages):
        _run("make a virtual environment", sys.executable, "-m", "venv", "--clear", str(home))
        _run(f"install {packages}", str(python), "-m", "pip", "install", "-q", *packages)
        stamp.write_text(" ".join(packages))
    return python


def triton_server() -> Path:
    """The unpacked wheel that holds a Triton server; skips when it can't be had."""
    home = folder() / "pytriton"
    if not (home / "made").exists():
        python = environment("triton", STUB_NUMPY)
        wheels = folder() / "wheels"
        _run(
            f"download {PYTRITON}",
            *(str(python), "-m", "pip", "download", "-q", "--no-deps"),
            *("-d", str(wheels), PYTRITON),
        )
        with zipfile.ZipFile(next(wheels.glob("nvidia_pytriton-*.whl"))) as wheel:
            wheel.extractall(home)
        _arrange_backend(home)
        (home / "made").touch()
    return home


def triton_environment(home: Path) -> dict[str, str]:
    """The environment variables under which the unpacked server finds libraries and Python."""
    python = environment("triton", STUB_NUMPY)
    libraries = [str(home / "nvidia_pytriton.libs"), sysconfig.get_config_var("LIBDIR")]
    return {
        **os.environ,
        "LD_LIBRARY_PATH": os.pathsep.join(libraries),
        "PATH": os.pathsep.join([str(python.parent), os.environ["PATH"]]),
        "VIRTUAL_ENV": str(python.parent.parent),
    }


def _arrange_backend(home: Path) -> None:
    """Put the stub for this Python beside the backend, where the server looks for it."""
    server = home / "pytriton" / "tritonserver"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = server / "python_backend_stubs" / version / "triton_python_backend_stub"
    if not stub.exists():
        pytest.skip(f"the wheel has no Python stub for {version}")
    placed = server / "backends" / "python" / stub.name
    placed.write_bytes(stub.read_bytes())
    placed.chmod(0o755)
    (server / "bin" / "tritonserver").chmod(0o755)


def _run(what: str, *command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"could not {what}: {type(error).__name__}")
    if done.returncode:
        pytest.skip(f"could not {what}: {done.stderr.strip()[-300:]}")
