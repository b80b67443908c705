"""Phone and watch: motion of 23 people in five activities (Matey-Sanz et al. 2023, CC BY 4.0)."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reticent.data.digest import check_rows, read_verified
from reticent.data.labels import bands
from reticent.data.task import Task
from reticent.errors import ConfigError, MissingExtraError

INERTIAL_SHA256 = "f04678b8f99df2330388c8cd1258c2100243aa43e7401762e8bac22d37df1df8"
SUBJECTS_SHA256 = "65cd8a4d55a9a23126a9d963a51b5c72c69db17ad644691fa85365a52e23d403"
ROWS = 521_766
DEVICES = {"phone": "sp", "watch": "sw"}
CHANNELS = ("x_acc", "y_acc", "z_acc", "x_gyro", "y_gyro", "z_gyro")
WINDOW, HOP, PURITY = 100, 50, 0.8


def har_phone_watch(
    folder: Path, *, public: str = "activity", device: str = "phone", hop: int = HOP
) -> Task:
    """Windows (n, 6, 100) of one second, acceleration and rotation, at about 100 Hz.

    Public: activity (a window counts when four fifths of it are one activity). Private: person,
    sex, age band. Users are people, recordings their executions; windows never leave one.
    """
    if public != "activity" or device not in DEVICES or hop < 1:
        raise ConfigError(
            f"Expected public='activity', device in {tuple(DEVICES)} and hop >= 1, got "
            f"public={public!r}, device={device!r}, hop={hop}."
        )
    series = _read(folder, DEVICES[device])
    # A person's executions are numbered from 1; in the order of their text, "10" precedes "2".
    numbers, which = np.unique(series.execution, return_inverse=True)
    by_text = np.unique(numbers.astype(np.str_), return_inverse=True)[1]
    keys, recording = np.unique(series.subject * len(numbers) + by_text[which], return_inverse=True)
    windows, activity, owner = [], [], []
    for index in range(len(keys)):
        rows = np.flatnonzero(recording == index)
        for start in range(0, len(rows) - WINDOW + 1, hop):
            span = rows[start : start + WINDOW]
            counts = np.bincount(series.label[span], minlength=len(series.activities))
            if counts.max() >= PURITY * WINDOW:
                windows.append(series.motion[:, span])
                activity.append(int(counts.argmax()))
                owner.append(index)
    sex, age = _traits(folder, series.people)
    user = (keys // len(numbers))[np.asarray(owner)]
    return Task(
        name=f"har_phone_watch ({device})",
        x=np.stack(windows),
        public=np.asarray(activity, dtype=np.int64),
        private={"person": user, "sex": sex[user], "age band": age[user]},
        users=user,
        recordings=np.asarray(owner, dtype=np.int64),
        label="activity",
        source="Matey-Sanz, Casteleyn and Granell 2023, doi 10.1016/j.dib.2023.109809, CC BY 4.0",
        class_names=series.activities,
        attribute_names={"person": series.people, "sex": ("woman", "man")},
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Series:
    """One device's samples in the file's order, which is time order within each execution.

    `subject`, `execution`, `label` (samples,); `motion` (6, samples).
    """

    subject: NDArray[np.int64]
    execution: NDArray[np.int64]
    label: NDArray[np.int64]
    motion: NDArray[np.float32]
    people: tuple[str, ...]
    activities: tuple[str, ...]


def _read(folder: Path, device: str) -> _Series:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", "data") from error
    stored = read_verified(folder / "inertial.parquet", INERTIAL_SHA256)
    table = parquet.read_table(pyarrow.BufferReader(stored))
    check_rows(table.num_rows, ROWS, "inertial.parquet")
    devices, known = _codes(table["device"])
    kept = devices == known.index(device)
    subject, people = _codes(table["subject"])
    label, activities = _codes(table["label"])
    motion = np.stack([table[channel].to_numpy()[kept] for channel in CHANNELS])
    return _Series(
        subject=subject[kept],
        execution=table["execution"].to_numpy()[kept].astype(np.int64),
        label=label[kept],
        motion=motion.astype(np.float32),
        people=people,
        activities=activities,
    )


def _codes(column: Any) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """A dictionary column's classes in sorted order of their text, without decoding every row."""
    encoded = column.unify_dictionaries().combine_chunks()
    names, order = np.unique(encoded.dictionary.to_pylist(), return_inverse=True)
    return order[encoded.indices.to_numpy()].astype(np.int64), tuple(map(str, names))


def _traits(folder: Path, people: tuple[str, ...]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sex (1: man) and tercile of age, by person."""
    stored = read_verified(folder / "subjects_info.csv", SUBJECTS_SHA256)
    rows = {row["subject_id"]: row for row in csv.DictReader(io.StringIO(stored.decode()))}
    check_rows(len(rows), len(people), "subjects_info.csv")
    sex = np.asarray([rows[name]["gender"] == "M" for name in people], dtype=np.int64)
    return sex, bands([float(rows[name]["age"]) for name in people])
