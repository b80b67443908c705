"""CMU Face Images: 20 people, four poses, open eyes or sunglasses (Mitchell 1997, UCI 124)."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from reticent.data.digest import check_rows, read_verified
from reticent.data.labels import encode_labels
from reticent.data.task import Task
from reticent.errors import ConfigError

SHA256 = "333ccd3d1dfcfdb1603720c8c56921322f4bb775137211dbb9c6dc788588d5d9"
IMAGES = 624
PUBLICS = ("pose", "eyes", "authorised")


def cmu_faces(folder: Path, *, public: str = "pose") -> Task:
    """Grey photographs (624, 1, 60, 64) in 0..1. Public: pose, eyes, or `authorised`.

    `authorised` opens a door for ten of the twenty people, every other in alphabetical order.
    Private: identity, and eyes or pose where it isn't public. Expression isn't offered: simple
    models read it no better than chance. Users are people, each photograph a recording of its own.
    """
    if public not in PUBLICS:
        raise ConfigError(f"Expected public in {PUBLICS}, got public={public!r}.")
    stored = read_verified(folder / "cmu_faces_60x64.npz", SHA256)
    with np.load(io.BytesIO(stored), allow_pickle=False) as arrays:
        images = arrays["images"]
        columns = {name: arrays[name] for name in ("user", "pose", "eyes")}
    check_rows(len(images), IMAGES, "cmu_faces")
    identity, people = encode_labels(columns["user"], "user")
    pose, poses = encode_labels(columns["pose"], "pose")
    eyes, eye_names = encode_labels(columns["eyes"], "eyes")
    labels = {"pose": (pose, poses), "eyes": (eyes, eye_names)}
    labels["authorised"] = (1 - identity % 2, ("refused", "authorised"))
    private = {"identity": identity}
    private |= {name: labels[name][0] for name in ("pose", "eyes") if name != public}
    return Task(
        name="cmu_faces",
        x=(images[:, None] / 255.0).astype(np.float32),
        public=labels[public][0],
        private=private,
        users=identity,
        # Rows are sorted by pose, then by expression: taken for time, a known person's test
        # photographs would all look up, and no attacker would have seen one that does.
        recordings=np.arange(IMAGES),
        label=public,
        source="CMU Face Images, T. Mitchell 1997, UCI data set 124",
        class_names=labels[public][1],
        attribute_names={"identity": people, "pose": poses, "eyes": eye_names},
    )
