"""SYNTHETIC faces: sketches drawn from parameters of a person, a pose and the eyes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from reticent.data.task import Task
from reticent.errors import ConfigError
from reticent.random import seeded

POSES = ("left", "right", "straight", "up")
EYES = ("open", "sunglasses")
SIZE = 32
PUBLICS = ("pose", "eyes", "authorised")
# How far features move across and up in each pose, in half face widths and heights.
_SHIFT = np.array([[-0.30, 0.0], [0.30, 0.0], [0.0, 0.0], [0.0, -0.28]])


def sketch_faces(
    *, seed: int = 0, public: str = "pose", persons: int = 24, images: int = 120
) -> Task:
    """SYNTHETIC grey sketches (persons * images, 1, 32, 32) in 0..1.

    Each person has a width and length of face, skin and hair tone, hair line, spacing and size of
    eyes, length of nose and width of mouth; each image a pose, eyes open or behind sunglasses,
    light, a small shift and pixel noise. Public: pose, eyes, or `authorised` (every other person).
    Private: identity, and pose or eyes where they aren't public.
    """
    if public not in PUBLICS or persons < 2 or images < 8:
        raise ConfigError(
            f"Expected public in {PUBLICS}, persons >= 2 and images >= 8, got public={public!r}, "
            f"persons={persons}, images={images}."
        )
    rng = seeded(seed, 30)
    bodies = rng.uniform(-1, 1, (persons, 9))
    person = np.repeat(np.arange(persons), images)
    pose = rng.integers(len(POSES), size=len(person))
    eyes = rng.integers(len(EYES), size=len(person))
    x = _draw(bodies[person], pose, eyes, rng)
    labels = {"pose": pose, "eyes": eyes, "authorised": 1 - person % 2}
    names = {"pose": POSES, "eyes": EYES, "authorised": ("refused", "authorised")}
    private = {"identity": person}
    private |= {name: labels[name] for name in ("pose", "eyes") if name != public}
    return Task(
        name="sketch-faces",
        x=x[:, None].astype(np.float32),
        public=labels[public],
        private=private,
        users=person,
        synthetic=True,
        label=public,
        source=f"SYNTHETIC: reticent.data.generators.sketch_faces, seed {seed}",
        class_names=names[public],
        attribute_names={
            "identity": tuple(f"person {index}" for index in range(persons)),
            "pose": POSES,
            "eyes": EYES,
        },
    )


def _draw(
    body: NDArray[np.float64],
    pose: NDArray[np.int64],
    eyes: NDArray[np.int64],
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Images (n, 32, 32) from body parameters (n, 9) in -1..1."""
    n = len(body)
    wide, long, skin, hair, line, apart, size, nose, mouth = body.T[:, :, None, None]
    shift = _SHIFT[pose] * rng.uniform(0.6, 1.2, (n, 1)) + 0.05 * rng.standard_normal((n, 2))
    centre = 0.06 * rng.standard_normal((n, 2))
    grid = np.linspace(-1, 1, SIZE)
    u = grid[None, None, :] - centre[:, 0, None, None]
    v = grid[None, :, None] - centre[:, 1, None, None]
    across, down = shift[:, 0, None, None], shift[:, 1, None, None]
    face_w, face_h = 0.58 + 0.09 * wide, 0.76 + 0.08 * long
    face = _blob(u / face_w, v / face_h)
    canvas = np.full((n, SIZE, SIZE), 0.12) + 0.05 * u
    canvas = canvas * (1 - face) + (0.68 + 0.14 * skin) * face
    top = _step(-(v - down * 0.5 + 0.42 + 0.12 * line) / 0.05)
    canvas = canvas * (1 - face * top) + (0.30 + 0.2 * hair) * face * top
    glasses = (eyes == 1)[:, None, None]
    for side in (-1, 1):
        place = (u - across - side * (0.24 + 0.05 * apart)) / (0.09 + 0.02 * size)
        eye = _blob(place, (v - down + 0.12) / 0.055)
        shade = _blob(place / 1.75, (v - down + 0.12) / 0.12)
        dark = np.where(glasses, shade, eye) * face
        canvas = canvas * (1 - dark) + np.where(glasses, 0.05, 0.16) * dark
    ridge = _blob((u - 1.25 * across) / 0.05, (v - down - 0.10) / (0.16 + 0.05 * nose)) * face
    canvas = canvas * (1 - 0.35 * ridge)
    lips = _blob((u - across) / (0.20 + 0.06 * mouth), (v - down - 0.42) / 0.05) * face
    canvas = canvas * (1 - lips) + 0.32 * lips
    light = 1 + 0.12 * rng.standard_normal((n, 1, 1)) + 0.12 * rng.standard_normal((n, 1, 1)) * u
    noisy = canvas * light + 0.05 * rng.standard_normal(canvas.shape)
    return np.asarray(np.clip(noisy, 0, 1))


def _blob(u: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.float64]:
    """A soft-edged ellipse of radius 1."""
    return _step((1 - np.sqrt(u**2 + v**2)) / 0.12)


def _step(x: NDArray[np.float64]) -> NDArray[np.float64]:
    bounded = np.clip(4 * x, -30, 30)
    return np.asarray(1 / (1 + np.exp(-bounded)))
