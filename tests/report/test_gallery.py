"""The gallery: what arrays become, and which arrays it refuses."""

from __future__ import annotations

import base64
import re
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from specimen import gallery

from reticent.errors import ConfigError
from reticent.report.gallery import Gallery, render_gallery


def same(array: Any, **more: Any) -> Gallery:
    return Gallery(inputs=array, plain=array, protected=array, **more)


def decode(uri: str) -> np.ndarray:
    """The pixels of one of our PNGs: unfiltered rows, 8 bits."""
    data = base64.b64decode(uri)
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    width, height, depth, colour = struct.unpack(">IIBB", data[16:26])
    assert depth == 8
    start = data.index(b"IDAT") + 4
    (length,) = struct.unpack(">I", data[start - 8 : start - 4])
    channels = {0: 1, 2: 3}[colour]
    rows = np.frombuffer(zlib.decompress(data[start : start + length]), np.uint8)
    rows = rows.reshape(height, 1 + width * channels)
    assert not rows[:, 0].any()
    return rows[:, 1:].reshape(height, width, channels)


@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_survives_as_png(channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1, channels, 5, 7))
    html = render_gallery(same(pixels.astype(np.float32)))
    uris = re.findall(r'base64,([^"]+)"', html)
    assert len(uris) == 3
    np.testing.assert_array_equal(decode(uris[0]), np.moveaxis(pixels[0], 0, -1))


def test_images_between_zero_and_one_are_stretched_and_cut() -> None:
    inputs = np.array([[[[0.0, 1.0]]]])
    wild = np.array([[[[-3.0, np.nan]]]])
    html = render_gallery(Gallery(inputs=inputs, plain=wild, protected=inputs))
    shown = [decode(uri).ravel().tolist() for uri in re.findall(r'base64,([^"]+)"', html)]
    assert shown == [[0, 255], [0, 0], [0, 255]]


@pytest.mark.parametrize(
    ("shape", "kind"),
    [((2, 9), "vector"), ((2, 3, 50), "series"), ((2, 1, 8, 8), "image")],
)
def test_the_number_of_axes_says_what_it_is(shape: tuple[int, ...], kind: str) -> None:
    assert same(np.zeros(shape)).shown_as == kind


def test_images_without_channels_can_be_named() -> None:
    made = same(np.zeros((2, 8, 8)), kind="image")
    assert render_gallery(made).count("<img") == 6


def test_a_reconstruction_is_drawn_over_the_truth() -> None:
    html = render_gallery(gallery("series"))
    assert html.count("<polyline") == 3 * 6 * 3 * 2
    hard = html[html.index("seen hard") :]
    first, second = re.findall(r'points="([^"]+)"', hard)[:2]
    assert first != second


def test_a_perfect_reconstruction_covers_the_truth() -> None:
    html = render_gallery(same(gallery("series").inputs))
    points = re.findall(r'points="([^"]+)"', html)
    assert points[::2] == points[1::2]


def test_bars_have_the_length_of_the_values() -> None:
    values = np.array([[1.0, -0.5, 0.0]])
    html = render_gallery(same(values))
    heights = [float(h) for h in re.findall(r'<rect[^>]* height="([\d.]+)"', html)[:3]]
    assert heights == [34.0, 17.0, 0.0]


def test_no_more_than_eight_columns() -> None:
    assert render_gallery(same(np.zeros((20, 4)))).count("<figure>") == 24


def test_the_floor_is_a_row_of_its_own() -> None:
    html = render_gallery(same(np.zeros((2, 4)), label_only=np.zeros((2, 4))))
    assert "What the label alone gives" in html
    assert html.count("<figure>") == 8


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: Gallery(inputs=np.zeros((2, 3)), plain=np.zeros((2, 3)),
                         protected=np.zeros((2, 4))), "one shape"),
        (lambda: same(np.zeros((0, 3))), "k > 0"),
        (lambda: same(np.zeros(3)), "one shape"),
        (lambda: same(np.zeros((2, 3)), captions=("a",)), "one caption per input"),
        (lambda: same(np.zeros((2, 3)), kind="image"), "image arrays"),
        (lambda: same(np.zeros((2, 3, 4, 5, 6))), "image arrays"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(made: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        made()


def test_two_channels_are_no_image() -> None:
    with pytest.raises(ConfigError, match="1 or 3 channels"):
        render_gallery(same(np.zeros((1, 2, 4, 4))))


def test_a_constant_series_can_be_drawn() -> None:
    assert "nan" not in render_gallery(same(np.zeros((1, 1, 10))))


def test_another_attack_brings_its_own_headings_and_may_have_no_protected_row() -> None:
    """Gradient inversion: a batch and what a federated server rebuilds of it."""
    batch = np.random.default_rng(1).random((4, 1, 8, 8)).astype(np.float32)
    drawn = render_gallery(
        Gallery(
            inputs=batch,
            plain=batch[::-1],
            titles=("A client's batch", "Rebuilt from its gradient", "Rebuilt under noise"),
            inputs_note="stays on the device",
        )
    )
    assert drawn.count("<img") == 8
    assert "A client&#x27;s batch" in drawn or "A client's batch" in drawn
    assert "stays on the device" in drawn
    assert "Rebuilt under noise" not in drawn
    assert "What the server" not in drawn
