"""A matplotlib drawing as inline SVG that takes its colours and fonts from the page."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from typing import Any

from reticent.errors import MissingExtraError
from reticent.report.markup import Html

# Each colour stands for a CSS variable of the page, so that one drawing serves light and dark.
INK, MUTED, RULE, PAPER = "#010101", "#020202", "#030303", "#040404"
MEASURED, FLOOR, CEILING, BAD, ALLOWED = "#050505", "#060606", "#070707", "#080808", "#090909"
_VARIABLES = {
    INK: "ink",
    MUTED: "muted",
    RULE: "rule",
    PAPER: "card",
    MEASURED: "measured",
    FLOOR: "floor",
    CEILING: "ceiling",
    BAD: "bad",
    ALLOWED: "allowed",
}
_STYLE: Any = {
    "svg.hashsalt": "reticent",
    "svg.fonttype": "none",
    "font.size": 8.5,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": RULE,
    "axes.facecolor": "none",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "grid.color": RULE,
    "grid.linewidth": 0.5,
}
LETTER = 4.7  # mean width of a letter in points at 8.5 pt: enough to keep labels apart


@contextmanager
def drawing_axes(
    width: float, height: float, *, left: float = 6, bottom: float = 34, top: float = 2
) -> Iterator[tuple[Any, Any]]:
    """A figure of `width` x `height` inches and its axes; margins in points.

    At 72 dots per inch a dot is a point of the drawing.
    """
    try:
        import matplotlib
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "report") from error
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        figure = Figure(figsize=(width, height), dpi=72)
        FigureCanvasSVG(figure)
        wide, high = 72 * width, 72 * height
        axes = figure.add_axes(
            (left / wide, bottom / high, 1 - (left + 8) / wide, 1 - (bottom + top) / high)
        )
        axes.set_axisbelow(True)
        yield figure, axes


def inline_svg(figure: Any, name: str, label: str) -> Html:
    """The drawing as inline SVG: page colours and fonts, ids of its own, no outside names."""
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    box = re.search(r'viewBox="([^"]+)"', text)
    opening = (
        f'<svg class="plot" role="img" aria-label="{escape(label)}" '
        f'viewBox="{box.group(1) if box else ""}">'
    )
    text = re.sub(r"^<svg[^>]*>", lambda _: opening, text)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'xlink:href="#', f'href="#{name}-', text)
    text = text.replace("url(#", f"url(#{name}-")
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var(--{variable})")
    # Releases of matplotlib differ in writing the shorthand or the family on its own.
    text = re.sub(r"(font: [^;\"']*?px) [^;\"]*", r"\1 var(--sans)", text)
    text = re.sub(r"font-family: [^;\"]*", "font-family: var(--sans)", text)
    return Html(re.sub(r">\s+<", "><", text).strip())
