"""HTML elements whose text is escaped by construction."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

_VOID = frozenset({"br", "col", "hr", "img", "meta"})


class Html(str):
    """Text that is HTML already. Anything else that enters an element is data, and is escaped."""

    __slots__ = ()


Child = str | None


def element(tag: str, *children: Child, **attributes: str | None) -> Html:
    """`<tag ...>children</tag>`; plain `str` children and all attribute values are escaped.

    A trailing underscore is dropped from attribute names (`class_`), other underscores become
    hyphens (`aria_label`). None leaves a child or an attribute out.
    """
    written = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escape(value)}"'
        for name, value in attributes.items()
        if value is not None
    )
    if tag in _VOID:
        return Html(f"<{tag}{written}>")
    return Html(f"<{tag}{written}>{join(children)}</{tag}>")


def join(children: Iterable[Child], separator: str = "") -> Html:
    """The children one after the other, escaped unless they are HTML already."""
    return Html(escape(separator).join(_html(child) for child in children if child is not None))


def _html(child: str) -> str:
    return child if isinstance(child, Html) else escape(child)
