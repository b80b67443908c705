"""Elements escape what is data, and only that."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from reticent.report.markup import Html, element, join


@given(st.text(), st.text())
def test_data_never_opens_a_tag(text: str, value: str) -> None:
    made = element("p", text, title=value)
    assert made.count("<") == 2
    assert made.count('"') == 2


def test_elements_nest_unescaped() -> None:
    assert element("p", element("b", "a & b"), " < c") == "<p><b>a &amp; b</b> &lt; c</p>"


def test_names_void_elements_and_absent_parts() -> None:
    assert element("img", alt="", src=None) == '<img alt="">'
    assert (
        element("td", None, class_="num", aria_label="x") == '<td class="num" aria-label="x"></td>'
    )
    assert join(["<", Html("<br>"), None], ", ") == "&lt;, <br>"
