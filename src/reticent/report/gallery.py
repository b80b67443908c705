"""What an attacker rebuilds: records beside the best reconstructions of them."""

from __future__ import annotations

import base64
import struct
import zlib
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from reticent.errors import ConfigError
from reticent.report.markup import Html, element, join

Kind = Literal["image", "series", "vector"]
_LIMIT = 8
_WIDTH, _HEIGHT = 160, 72


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Some records and what the best attacker makes of what it receives.

    All arrays have one shape (k, ...): images (k, 1 or 3, H, W) in [0, 1] or 0..255, series
    (k, C, L), vectors (k, d). Set `kind="image"` for images without a channel axis, (k, H, W).
    `label_only` is what the public label alone gives (the class mean): what a protected
    reconstruction should look like. `captions` (k,) stand under the columns, `plain_note` and
    `protected_note` beside the rows, for instance with the attacker's error. At most 8 columns
    are shown. The headings speak of a client's inputs and a server; give `titles` (records,
    undefended, protected) and `inputs_note` for another attack, such as gradient inversion (a
    batch and what a federated server rebuilds of it) or model inversion (class means). Without
    `protected` that row is left out.
    """

    inputs: NDArray[Any]
    plain: NDArray[Any]
    protected: NDArray[Any] | None = None
    label_only: NDArray[Any] | None = None
    captions: tuple[str, ...] = ()
    kind: Kind | None = None
    plain_note: str = ""
    protected_note: str = ""
    titles: tuple[str, str, str] = (
        "What the client has",
        "What the server rebuilds, undefended",
        "What the server rebuilds, protected",
    )
    inputs_note: str = "never sent"

    def __post_init__(self) -> None:
        shapes = {self.inputs.shape, self.plain.shape}
        shapes |= {more.shape for more in (self.protected, self.label_only) if more is not None}
        if len(shapes) != 1 or self.inputs.ndim < 2 or len(self.inputs) == 0:
            raise ConfigError(
                "Expected inputs and reconstructions of one shape (k, ...), k > 0, got "
                f"inputs={self.inputs.shape}, plain={self.plain.shape}, "
                f"protected={None if self.protected is None else self.protected.shape}."
            )
        if self.captions and len(self.captions) != len(self.inputs):
            raise ConfigError(
                f"Expected one caption per input ({len(self.inputs)}), "
                f"got captions={len(self.captions)}."
            )
        fitting = {"image": (3, 4), "series": (3,), "vector": (2,)}[self.shown_as]
        if self.inputs.ndim not in fitting:
            raise ConfigError(
                f"Expected {self.shown_as} arrays of {' or '.join(map(str, fitting))} axes, "
                f"got shape={self.inputs.shape}. Reshape them or set kind."
            )

    @property
    def shown_as(self) -> Kind:
        """How the arrays are drawn: `kind`, or what their number of axes suggests."""
        guesses: dict[int, Kind] = {2: "vector", 3: "series"}
        return self.kind or guesses.get(self.inputs.ndim, "image")


def render_gallery(gallery: Gallery) -> Html:
    """The gallery as rows of pictures: input, undefended, protected, the label alone."""
    draw = {"image": _images, "series": _series, "vector": _bars}[gallery.shown_as]
    rows = [
        (gallery.titles[0], gallery.inputs_note, gallery.inputs, "input"),
        (gallery.titles[1], gallery.plain_note, gallery.plain, "plain"),
    ]
    if gallery.protected is not None:
        rows.append((gallery.titles[2], gallery.protected_note, gallery.protected, "hard"))
    if gallery.label_only is not None:
        rows.append(("What the label alone gives", "the floor", gallery.label_only, "floor"))
    count = min(_LIMIT, len(gallery.inputs))
    captions = gallery.captions or tuple(f"record {index + 1}" for index in range(count))
    body = [
        element(
            "div",
            element("h3", title, element("span", note, class_="note") if note else None),
            element(
                "div",
                *(
                    element("figure", picture, element("figcaption", captions[index]))
                    for index, picture in enumerate(
                        draw(shown[:count], gallery.inputs[:count], f"{title}: ", captions)
                    )
                ),
                class_="strip",
            ),
            class_=f"seen {name}",
        )
        for title, note, shown, name in rows
    ]
    return element("div", *body, class_=f"gallery {gallery.shown_as}", style=f"--columns:{count}")


def _images(
    shown: NDArray[Any], truth: NDArray[Any], label: str, captions: tuple[str, ...]
) -> list[Html]:
    scale = 255.0 if truth.max() <= 1.5 else 1.0
    pixels = np.clip(np.nan_to_num(shown.astype(np.float64)) * scale, 0, 255).round()
    return [
        element(
            "img",
            src="data:image/png;base64," + base64.b64encode(_png(image)).decode(),
            alt=label + caption,
        )
        for image, caption in zip(pixels.astype(np.uint8), captions, strict=False)
    ]


def _png(image: NDArray[np.uint8]) -> bytes:
    """An 8-bit PNG of an image (H, W), (1, H, W) or (3, H, W) (ISO/IEC 15948)."""
    planes = image if image.ndim == 3 else image[None]
    if len(planes) not in (1, 3):
        raise ConfigError(f"Expected images of 1 or 3 channels, got shape={image.shape}.")
    rows = np.moveaxis(planes, 0, -1)
    height, width = rows.shape[:2]
    raw = b"".join(b"\x00" + np.ascontiguousarray(row).tobytes() for row in rows)
    colour = 0 if len(planes) == 1 else 2
    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(raw, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def _series(
    shown: NDArray[Any], truth: NDArray[Any], label: str, captions: tuple[str, ...]
) -> list[Html]:
    """Line traces, one lane per channel, over the true trace drawn faintly on the same scale."""
    return [
        _svg(
            label + caption,
            *(
                _trace(values, low, high, name)
                for lane in range(min(3, len(record)))
                for values, low, high, name in _lane(record[lane], true[lane], lane, len(record))
            ),
        )
        for record, true, caption in zip(shown, truth, captions, strict=False)
    ]


def _lane(
    record: NDArray[Any], true: NDArray[Any], lane: int, channels: int
) -> list[tuple[NDArray[np.float64], float, float, str]]:
    lanes = min(3, channels)
    span = _HEIGHT / lanes
    top, bottom = lane * span + 2, (lane + 1) * span - 2
    low, high = float(true.min()), float(true.max())
    room = (high - low) or 1.0

    def placed(values: NDArray[Any]) -> NDArray[np.float64]:
        unit = np.clip((np.nan_to_num(values.astype(np.float64)) - low) / room, 0, 1)
        return np.asarray(bottom - unit * (bottom - top), dtype=np.float64)

    return [
        (placed(true), top, bottom, "truth"),
        (placed(record), top, bottom, f"channel{lane}"),
    ]


def _trace(values: NDArray[np.float64], top: float, bottom: float, name: str) -> Html:
    kept = np.linspace(0, len(values) - 1, min(len(values), 80)).round().astype(int)
    across = kept / max(1, len(values) - 1) * _WIDTH
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(across, values[kept], strict=True))
    return element("polyline", points=points, class_=name)


def _bars(
    shown: NDArray[Any], truth: NDArray[Any], label: str, captions: tuple[str, ...]
) -> list[Html]:
    """Bars about zero on the scale of the true records, whose tops are marked."""
    size = float(np.abs(truth).max()) or 1.0
    middle = _HEIGHT / 2 if truth.min() < 0 else _HEIGHT - 2
    step = _WIDTH / truth.shape[1]

    def end(value: float) -> float:
        return float(middle - np.clip(np.nan_to_num(value) / size, -1, 1) * (middle - 2))

    def bar(index: int, value: float) -> Html:
        tip = end(value)
        return element(
            "rect",
            x=f"{index * step + step * 0.12:.1f}",
            y=f"{min(tip, middle):.1f}",
            width=f"{step * 0.76:.1f}",
            height=f"{abs(middle - tip):.1f}",
        )

    def mark(index: int, value: float) -> Html:
        x, y = index * step, f"{end(value):.1f}"
        return element("line", x1=f"{x:.1f}", x2=f"{x + step:.1f}", y1=y, y2=y, class_="truth")

    return [
        _svg(
            label + caption,
            *(bar(index, value) for index, value in enumerate(record)),
            *(mark(index, value) for index, value in enumerate(true)),
        )
        for record, true, caption in zip(shown, truth, captions, strict=False)
    ]


def _svg(label: str, *shapes: Html) -> Html:
    return Html(
        element(
            "svg", join(shapes), role="img", aria_label=label, viewBox=f"0 0 {_WIDTH} {_HEIGHT}"
        )
    )
