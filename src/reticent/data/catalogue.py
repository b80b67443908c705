"""The catalogue: every set that Reticent knows by name, and `load`, which finds any task."""

from __future__ import annotations

import difflib
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from reticent.data import embedded
from reticent.data.columns import as_names
from reticent.data.files import SUFFIXES, from_file
from reticent.data.generators.dial import dial
from reticent.data.generators.formants import formants
from reticent.data.generators.gait import gait
from reticent.data.generators.intrusion import intrusion
from reticent.data.generators.sketch_faces import sketch_faces
from reticent.data.generators.turbines import turbines
from reticent.data.readers.cmapss_fd001 import cmapss_fd001
from reticent.data.readers.cmu_faces import cmu_faces
from reticent.data.readers.fsdd import fsdd
from reticent.data.readers.har_phone_watch import har_phone_watch
from reticent.data.readers.mnist_t10k import mnist_t10k
from reticent.data.readers.nsl_kdd import nsl_kdd
from reticent.data.readers.pneumoniamnist import pneumoniamnist
from reticent.data.task import Task
from reticent.errors import ConfigError, DataError

ROOT_VARIABLE = "RETICENT_DATA"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One set: how to make it, what it is, whether it is generated, whether it needs a folder."""

    name: str
    about: str
    make: Callable[..., Task]
    synthetic: bool = False
    needs_root: bool = False


_ENTRIES = (
    Entry(name="gait", about="activity from a phone's motion", make=gait, synthetic=True),
    Entry(
        name="sketch-faces",
        about="pose, eyes or authorisation from drawn faces",
        make=sketch_faces,
        synthetic=True,
    ),
    Entry(name="formants", about="digits as vowel formants", make=formants, synthetic=True),
    Entry(
        name="turbines",
        about="remaining life of machines (regression)",
        make=turbines,
        synthetic=True,
    ),
    Entry(name="intrusion", about="attacks on a network", make=intrusion, synthetic=True),
    Entry(
        name="dial",
        about="labels that correlate as much as asked",
        make=dial,
        synthetic=True,
    ),
    Entry(name="digits", about="8x8 handwritten digits", make=embedded.digits),
    Entry(name="mnist5k", about="5,000 MNIST digits", make=embedded.mnist5k),
    Entry(name="breast-cancer", about="malignant or benign", make=embedded.breast_cancer),
    Entry(name="adult", about="income from a census", make=embedded.adult),
    Entry(
        name="har_phone_watch",
        about="activity of 23 people, phone or watch",
        make=har_phone_watch,
        needs_root=True,
    ),
    Entry(name="cmu_faces", about="pose or eyes of 20 people", make=cmu_faces, needs_root=True),
    Entry(name="fsdd", about="digits spoken by six men", make=fsdd, needs_root=True),
    Entry(
        name="cmapss_fd001",
        about="remaining life of 100 engines (regression)",
        make=cmapss_fd001,
        needs_root=True,
    ),
    Entry(name="nsl_kdd", about="attacks on a network", make=nsl_kdd, needs_root=True),
    Entry(name="mnist_t10k", about="10,000 MNIST digits", make=mnist_t10k, needs_root=True),
    Entry(
        name="pneumoniamnist",
        about="pneumonia from chest X-rays",
        make=pneumoniamnist,
        needs_root=True,
    ),
)
ENTRIES: Mapping[str, Entry] = {entry.name: entry for entry in _ENTRIES}


def names() -> tuple[Entry, ...]:
    """Every set that `load` knows by name."""
    return tuple(ENTRIES.values())


def load(
    name: str,
    *,
    public: str | None = None,
    private: Sequence[str] = (),
    unit: Literal["record", "user"] = "record",
    root: Path | None = None,
    seed: int = 0,
    **options: Any,
) -> Task:
    """The task called `name`: an embedded set, a real one under `root`, or a file's path.

    `public` and `private` choose among what the set offers (default: its own public label, all
    private attributes); for a table they are columns. `seed` is for generated sets. Real sets lie
    one folder each under `root`, else under the folder that RETICENT_DATA names. Raises
    `DataError` for data that can't be used and `ConfigError` for names and options.
    """
    private = as_names(private)
    if name in ENTRIES:
        return _choose(_make(ENTRIES[name], public, root, seed, options), private, unit)
    if Path(name).suffix.lower() in SUFFIXES:
        return from_file(
            Path(name) if root is None else root / name,
            public=public,
            private=private,
            unit=unit,
            **options,
        )
    near = difflib.get_close_matches(name, ENTRIES, n=3) or sorted(ENTRIES)
    raise ConfigError(
        f"Expected a data set's name, or a path ending in {', '.join(SUFFIXES)}, got "
        f"data={name!r}. Nearest names: {', '.join(near)}."
    )


def _make(
    entry: Entry, public: str | None, root: Path | None, seed: int, options: Mapping[str, Any]
) -> Task:
    taken = inspect.signature(entry.make).parameters
    given = dict(options)
    if public is not None:
        given["public"] = public
    unknown = sorted(set(given) - (set(taken) - {"folder", "seed"}))
    if unknown:
        offered = sorted(set(taken) - {"folder", "seed"})
        raise ConfigError(f"Data set {entry.name!r} takes the options {offered}, got {unknown}.")
    for option, value in given.items():
        _check_type(entry.name, option, value, taken[option].default)
    if "seed" in taken:
        given["seed"] = seed
    made = (
        entry.make(_folder(entry.name, root), **given)
        if entry.needs_root
        else (entry.make(**given))
    )
    default = taken["public"].default if "public" in taken else made.label
    return replace(made, label=public or str(default))


def _check_type(name: str, option: str, value: Any, default: Any) -> None:
    """Refuse a value of another type than the option's default; whole numbers pass for reals."""
    fits = isinstance(value, (int, float) if isinstance(default, float) else type(default))
    if not fits or isinstance(value, bool):
        raise ConfigError(
            f"Expected the option {option!r} of {name!r} as {type(default).__name__}, got "
            f"{option}={value!r}."
        )


def _folder(name: str, root: Path | None) -> Path:
    given = os.environ.get(ROOT_VARIABLE) if root is None else str(root)
    if not given:
        raise DataError(
            f"The data set {name!r} doesn't come with Reticent. Set {ROOT_VARIABLE} (or root=) "
            "to the folder that holds the data sets, one folder each; or use an embedded one."
        )
    folder = Path(given) / name
    if not folder.is_dir():
        raise DataError(f"Expected a folder {name!r} under {given!r}, found none.")
    return folder


def _choose(task: Task, private: Sequence[str], unit: Literal["record", "user"]) -> Task:
    missing = sorted(set(private) - set(task.private))
    if missing:
        raise DataError(
            f"Expected private attributes of {task.name!r} among {sorted(task.private)}, "
            f"got {missing}."
        )
    kept = {name: task.private[name] for name in private} or dict(task.private)
    return replace(task, private=kept, unit=unit)
