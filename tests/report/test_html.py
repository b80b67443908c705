"""The page: self-contained, the same every time, and saying what it must in each state."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from specimen import NOISE, TASK, ZERO, audited, contradicted, gallery, gate_failed, holds

from reticent.audit.scorecard import Alone, Encryption, Packing, Scorecard, by_pillar
from reticent.errors import MissingExtraError
from reticent.guarantee import Pillar
from reticent.report import render, write_report

VOID = {"br", "col", "hr", "img", "meta", "input", "link"}
STATES = pytest.mark.parametrize("make", [holds, contradicted, gate_failed, audited])


class Page(HTMLParser):
    """The text a reader sees, and what is wrong with the tree."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.unnamed: list[str] = []
        self.tables_outside: int = 0
        self.scrolling = 0
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.ids += [found["id"] or ""] if "id" in found else []
        self.links += [found[name] or "" for name in ("href", "src", "xlink:href") if name in found]
        if tag == "table" and "scroll" not in self.classes:
            self.tables_outside += 1
        described = found.get("aria-label") or found.get("alt") or found.get("aria-hidden")
        if tag in ("svg", "img") and not described:
            self.unnamed.append(tag)
        if tag not in VOID:
            self.open.append(tag)
            self.classes.append(found.get("class") or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"stray </{tag}>"
        assert self.open.pop() == tag
        self.classes.pop()

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.text.append(data)

    @property
    def said(self) -> str:
        return " ".join(" ".join(self.text).replace("\u00a0", " ").split())

    classes: list[str]

    def reset(self) -> None:
        super().reset()
        self.classes = []


def page(card: Scorecard, **kwargs: object) -> Page:
    return Page(render(card, **kwargs))  # type: ignore[arg-type]


@STATES
def test_loads_nothing_and_runs_nothing(make: object) -> None:
    html = render(make(), gallery=gallery("image"))  # type: ignore[operator]
    assert "<script" not in html
    assert not re.search(r"\bon\w+=", html)
    assert "http" not in html
    assert "@import" not in html
    links = Page(html).links
    assert links
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in links)


@STATES
def test_is_a_tree_with_unique_ids_and_named_pictures(make: object) -> None:
    read = page(make(), gallery=gallery())  # type: ignore[operator]
    assert read.open == []
    assert len(read.ids) == len(set(read.ids))
    assert {link[1:] for link in read.links if link.startswith("#")} <= set(read.ids)
    assert read.unnamed == []


@STATES
def test_no_table_can_widen_the_page(make: object) -> None:
    assert page(make()).tables_outside == 0  # type: ignore[operator]


@STATES
def test_two_renders_are_identical(make: object) -> None:
    assert render(make(), gallery=gallery()) == render(make(), gallery=gallery())  # type: ignore[operator]


def test_an_audited_model_shows_what_was_attacked_and_what_was_not() -> None:
    said = page(audited()).said
    assert "What protection costs" not in said
    assert "Costs and gates" not in said
    assert "Worst excess: training data" in said
    assert "No attack on the input was run." in said
    assert "stored_records : needs access L5" in said


def test_is_small() -> None:
    assert len(render(holds(), gallery=gallery()).encode()) < 300_000


def test_verdict_comes_first_and_says_what_holds_and_what_not() -> None:
    said = page(holds()).said
    assert said.index("✓ HOLDS") < said.index("Key numbers") < said.index("What protection costs")
    assert "Against anyone, the training data is protected" in said
    assert "against the server, the input is protected: a request carries nothing beyond" in said
    assert "no attack that was run contradicts this" in said
    assert "the output and the model are not protected." in said
    assert "CONTRADICTED: input" not in said


def test_a_contradiction_is_red_and_says_so_in_words_everywhere() -> None:
    html = render(contradicted())
    said = Page(html).said
    assert 'class="verdict bad"' in html
    assert said.index("✕ CONTRADICTED") < said.index("Key numbers")
    assert "✓ HOLDS" not in said
    assert "Do not rely on this protection" in said
    assert "reached 51.8 % balanced accuracy on person from 32 pooled requests" in said
    assert "where the claim allows at most 26.0 %" in said
    for requests in (8, 32):
        assert re.search(rf"CONTRADICTED: input/center-noise[^.]* from {requests} pooled", said)
    assert html.count('class="broken-row"') >= 3
    assert "Input: the claim is contradicted" in said
    assert "allowed at most 17.7 %" in said


def test_a_contradiction_is_never_folded_away() -> None:
    """However many weaker measurements there are, each contradicting row stays in the open."""
    card = contradicted()
    broken = [f for f in card.findings if f.contradicts]
    twin = replace(broken[0], attack="second attack", excess=broken[0].excess - 0.01)
    weak = [replace(f, attack="weak attack", excess=f.excess - 0.02) for f in card.findings
            if not f.contradicts]  # fmt: skip
    html = render(replace(card, pillars=by_pillar((NOISE,), (*card.findings, twin, *weak))))
    folded = html[html.index("<details>") : html.index("</details>")]
    assert "weak attack" in folded
    assert "CONTRADICTED" not in folded
    assert "second attack" in html[: html.index("<details>")]


def test_a_failed_gate_is_not_a_contradiction() -> None:
    said = page(gate_failed()).said
    assert "! GATE FAILED" in said
    assert "Not fit for release as stated: the gate max_utility_loss failed" in said
    assert "limit 0.01, measured 0.033" in said
    assert "FAILED" in said[said.index("Costs and gates") :]
    assert "CONTRADICTED" not in said


def test_synthetic_data_wear_a_badge() -> None:
    assert "SYNTHETIC DATA" in page(gate_failed()).said
    assert "SYNTHETIC" not in page(holds()).said


def test_a_notice_about_generated_data_is_not_repeated() -> None:
    card = replace(gate_failed(), notices=("The data are SYNTHETIC.",))
    assert page(card).said.count("data are SYNTHETIC") == 1
    assert page(gate_failed()).said.count("data are SYNTHETIC") == 1


def test_notices_stand_before_the_numbers() -> None:
    card = replace(holds(), notices=("the attestation is a SIMULATION",))
    said = page(card).said
    assert said.index("Note: the attestation is a SIMULATION") < said.index("Key numbers")


def test_every_pillar_is_there_protected_or_not() -> None:
    said = page(contradicted()).said
    table = said[said.index("pillar by pillar") :]
    for name in ("Training data", "Input", "Output", "Model"):
        assert name in table
    assert table.count("Not protected: nothing is claimed.") == 3
    assert table.count("Not tested: no attack was run.") == 3


def test_a_claim_that_no_attack_tested_does_not_look_settled() -> None:
    html = render(replace(holds(), pillars=by_pillar((ZERO,), ()), frontier=()))
    said = Page(html).said
    assert "○ HOLDS SO FAR, NOT TESTED" in said
    assert "no attack has tested this" in said
    assert 'class="verdict good"' not in html
    assert "Not tested: no attribute attack on the input was run." in said


def test_nothing_claimed_is_not_a_success() -> None:
    html = render(replace(holds(), pillars={}, frontier=()))
    assert "NOTHING CLAIMED" in html
    assert 'class="verdict good"' not in html


def test_what_encryption_takes_is_shown_beside_what_was_not_chosen() -> None:
    packing = Packing(
        packing="single", rotations=10, key_bytes=88_200_000, upload_bytes=1_310_000,
        reply_bytes=524_000, server_ms=65.0,
    )  # fmt: skip
    other = replace(packing, packing="several", rotations=44)
    made = Encryption(levels=4, ring=16384, modulus_bits=334, chosen=packing, others=(other,))
    card = holds()
    assert card.cost is not None
    said = page(replace(card, cost=replace(card.cost, encryption=made))).said
    assert "ring 16,384, modulus 334 bits" in said
    assert "Not chosen: several" in said
    assert "44 rotations" in said


def test_the_price_in_model_privacy_stands_beside_the_frontier() -> None:
    said = page(holds()).said
    costs = said[said.index("What protection costs") : said.index("What leaks")]
    assert "make the client's half the classifier" in costs
    assert "decodes its own half's output to 90.2 % with one labelled example per class" in costs
    assert "a stand-alone classifier of the same client cost reaches 88.4 %" in costs
    model = said[said.index("pillar by pillar") :]
    assert "90.2 % with one labelled example per class" in model


def test_what_was_not_measured_alone_is_said() -> None:
    pillars = by_pillar((ZERO,), holds().pillars[Pillar.INPUT].findings, alone=Alone())
    said = page(replace(holds(), pillars=pillars, frontier=())).said
    assert "Few-shot decoding was not measured" in said
    assert "was not tested for this deployment" in said


def test_how_to_replay_is_complete() -> None:
    said = page(holds()).said
    for part in ("reticent run recipes/phone_activity.toml", "torch 2.13.0", "sha256:5b0c", "0, 1"):
        assert part in said


def test_everything_from_data_is_escaped() -> None:
    evil = "<script>alert('x')</script>&\"<b>"
    card = holds()
    broken = [replace(f, attack=evil, target=evil, details={"regime": evil}) for f in card.findings
              if f.pillar is Pillar.INPUT]  # fmt: skip
    card = replace(
        card,
        task=replace(TASK, title=evil, public=evil, private={evil: 2}, source=evil),
        method=replace(card.method, name=evil, parameters={evil: evil}),
        utility=replace(card.utility, metric=f"accuracy {evil}"),
        replay=replace(card.replay, command=evil, versions={evil: evil}, data_digest=evil),
        pillars=by_pillar((replace(ZERO, id=evil, mechanism=evil, source=evil),), broken),
        gates={evil: next(iter(card.gates.values()))},
        frontier=tuple(replace(p, method=evil, target=evil) for p in card.frontier),
        notices=(evil,),
    )
    html = render(card, gallery=replace(gallery(), captions=(evil,) * 6, plain_note=evil))
    assert "<script" not in html
    assert "<b>" not in html.replace("<b>Note: </b>", "")
    assert "alert(&#x27;x&#x27;)" in html
    assert Page(html).open == []


def test_dollars_and_underscores_are_no_formulas() -> None:
    card = holds()
    points = tuple(replace(p, method=f"${p.method}$") for p in card.frontier)
    assert "$prototype_code$" in render(replace(card, frontier=points))


def test_the_gallery_shows_inputs_and_both_reconstructions() -> None:
    read = page(holds(), gallery=gallery("image"))
    pictures = [link for link in read.links if link.startswith("data:")]
    assert len(pictures) == 18
    assert len(set(pictures)) == 6 + 6 + 1
    seen = read.said[read.said.index("What the server sees") :]
    assert "undefended" in seen
    assert "error 1.00 of the class mean's" in seen


def test_without_a_gallery_the_section_says_so() -> None:
    assert "No reconstructions were handed to this report." in page(holds()).said


def test_reconstruction_scores_stand_with_the_pictures() -> None:
    card = holds()
    first = card.pillars[Pillar.INPUT].findings[0]
    rebuilt = replace(first, attack="reconstruction", target="input", metric="explained variance",
                      value=0.01, ci=(-0.01, 0.03), floor=0.0, excess=0.01, excess_ci=(-0.01, 0.03),
                      ceiling=0.83)  # fmt: skip
    pillars = by_pillar((ZERO,), (*card.pillars[Pillar.INPUT].findings, rebuilt))
    said = page(replace(card, pillars=pillars)).said
    assert "Reconstruction of the input, measured as explained variance: 0.010" in said
    assert "undefended 0.830" in said


def test_colours_follow_the_reader() -> None:
    html = render(holds())
    assert "prefers-color-scheme: dark" in html
    assert "@media print" in html
    assert "var(--measured)" in html[html.index("<svg") :]
    # A literal colour in a drawing would stay light on a dark page.
    drawn = "".join(re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL))
    assert not re.findall(r"#[0-9a-f]{6}\b(?!-)", re.sub(r'(href="#|id=")[^"]*', "", drawn))


def contrast(one: str, other: str) -> float:
    """WCAG 2 contrast ratio of two #rrggbb colours."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_text_has_contrast(theme: int) -> None:
    html = render(holds())
    roots = re.findall(r":root \{(.*?)\}", html, flags=re.DOTALL)
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", roots[theme]))
    for back in ("paper", "card", "none-tint"):
        for front in ("ink", "muted", "measured", "ceiling"):
            assert contrast(colours[front], colours[back]) >= 4.5, (front, back)
    for tone in ("good", "bad", "warn"):
        assert contrast(colours[tone], colours[f"{tone}-tint"]) >= 4.5, tone
        assert contrast(colours["ink"], colours[f"{tone}-tint"]) >= 4.5, tone


def test_written_whole(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_report(path, holds(), gallery())
    assert path.read_text(encoding="utf-8") == render(holds(), gallery=gallery())
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"reticent\[report\]"):
        render(holds())
