"""The shape of the project: imports, surface, size of modules, number of tests."""

from __future__ import annotations

import ast
import contextlib
import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import reticent
from reticent.errors import MissingExtraError

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "reticent"
MODULES = sorted(SOURCE.rglob("*.py"))
# Raise these with the suite: a broken import must not drop a folder of tests unseen.
FEWEST_TESTS = 3500
MOST_NAMES = 30
MOST_LINES = 600
FORBIDDEN_CALLS = {
    "pickle.load",
    "pickle.loads",
    "torch.load",
    "joblib.load",
    "dill.load",
    "marshal.loads",
    "eval",
    "exec",
}
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:work|root|home)/")


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
    )


def tracked_files() -> list[Path]:
    """What git tracks; in an export without git, every file that git would not ignore."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode == 0 and listed.stdout:
        return [path for name in listed.stdout.split("\0") if (path := ROOT / name).is_file()]
    ignored = {"build", "dist", "runs", "__pycache__"}
    found = (path for path in ROOT.rglob("*") if path.is_file())
    return [
        path
        for path in found
        if not any(
            part in ignored or (part.startswith(".") and part not in (".ci", ".gitignore"))
            for part in path.relative_to(ROOT).parts
        )
    ]


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    return f"{dotted(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else ""


def test_imports_run_upwards_only() -> None:
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports())"
    ran = run_python("-c", code)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_the_public_surface_is_small_sorted_out_and_importable() -> None:
    names = reticent.__all__
    assert len(names) == len(set(names)) <= MOST_NAMES
    assert dir(reticent) == sorted(names)
    for name in names:
        assert getattr(reticent, name) is not None
    with pytest.raises(AttributeError, match="'surprise'"):
        _ = reticent.surprise
    # A submodule of the same name would shadow the lazy import once it is loaded.
    assert not set(names) & {path.stem for path in SOURCE.iterdir()}


def test_type_checkers_see_the_surface_that_exists() -> None:
    tree = ast.parse((SOURCE / "__init__.py").read_text(encoding="utf-8"))
    blocks = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {
        alias.asname or alias.name
        for block in blocks
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == set(reticent.__all__)


@pytest.mark.parametrize("name", ["reticent", "reticent.cli", "reticent.pipeline.recipe"])
def test_importing_the_surface_loads_no_torch(name: str) -> None:
    ran = run_python("-c", f"import json, sys, {name}; print(json.dumps('torch' in sys.modules))")
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) is False


def test_the_number_of_tests_does_not_fall() -> None:
    ran = run_python("-m", "pytest", "--collect-only", "-o", "addopts=-q", "-p", "no:cacheprovider")
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-2000:]
    collected = sum("::" in line for line in ran.stdout.splitlines())
    assert collected >= FEWEST_TESTS


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_a_module_says_what_it_is_loads_nothing_that_executes_and_stays_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    first = (ast.get_docstring(tree) or "").partition("\n")[0]
    assert re.fullmatch(r"\S.*[.:?]", first), f"first line of the docstring: {first!r}"
    assert not re.search(r"[.?!] +[A-Z]", first), f"more than one sentence: {first!r}"
    assert len(text.splitlines()) <= MOST_LINES
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert not {dotted(call.func) for call in calls} & FORBIDDEN_CALLS
    for item in (keyword for call in calls for keyword in call.keywords):
        assert item.arg != "allow_pickle" or ast.unparse(item.value) == "False"
    imported = {
        alias.name.partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    } | {
        (node.module or "").partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level == 0
    }
    assert not imported & {"pickle", "joblib", "dill", "marshal", "shelve"}


def test_every_package_folder_is_a_package_and_every_module_imports() -> None:
    folders = {path.parent for path in MODULES}
    assert not [relative(folder) for folder in folders if not (folder / "__init__.py").exists()]
    for path in MODULES:
        parts = path.relative_to(SOURCE.parent).with_suffix("").parts
        # The second choice of a library may be missing where the first is there.
        with contextlib.suppress(MissingExtraError):
            importlib.import_module(".".join(part for part in parts if part != "__init__"))


def test_no_unfinished_business_in_the_source() -> None:
    marks = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b|\bNotImplementedError\b")
    found = [
        f"{relative(path)}:{number}"
        for path in MODULES
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if marks.search(line)
    ]
    assert not found


def test_no_tracked_file_names_a_path_of_a_machine() -> None:
    found = []
    for path in tracked_files():
        data = path.read_bytes()
        if b"\0" in data[:4096]:
            continue
        for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), 1):
            if MACHINE_PATH.search(line):
                found.append(f"{relative(path)}:{number}")
    assert not found


def test_the_licence_is_the_whole_apache_text() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert 'license = "Apache-2.0"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
