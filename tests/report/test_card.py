"""The model card: privacy section complete, Markdown inert."""

from __future__ import annotations

from dataclasses import replace

from specimen import TASK, audited, contradicted, gate_failed, holds

from reticent.report import model_card


def said(text: str) -> str:
    return text.replace("\u00a0", " ")


def test_every_pillar_has_its_section() -> None:
    text = model_card(holds())
    for name in ("Training data", "Input", "Output", "Model"):
        assert f"### {name}" in text
    assert "- Not protected: nothing is claimed." in text
    assert "- Not tested: no attack was run." in text


def test_the_price_belongs_to_the_model() -> None:
    text = said(model_card(holds()))
    model = text[text.index("### Model") : text.index("## Cost")]
    assert "90.2 % with one labelled example per class" in model


def test_every_contradiction_is_written_out() -> None:
    text = model_card(contradicted())
    assert text.count("**CONTRADICTED:**") == 2
    assert "**CONTRADICTED.** Do not rely on this protection" in text
    assert "- **CONTRADICTED**: centre loss" in text


def test_gates_and_replay() -> None:
    text = model_card(gate_failed())
    assert r"The gate max\_utility\_loss failed (limit 0.01, measured 0.033)" in text
    assert "```sh\nreticent run recipes/phone_activity.toml" in text
    assert "**SYNTHETIC data" in text


def test_data_cannot_write_markdown() -> None:
    evil = "x\n# Fake | `code` <b> [a](b) **HOLDS**"
    card = holds()
    text = model_card(
        replace(
            card,
            task=replace(TASK, title=evil, public=evil),
            notices=(evil,),
            replay=replace(card.replay, command="```\n# Fake"),
        )
    )
    assert "\n# Fake | " not in text
    assert "**HOLDS**" not in text
    assert "<b>" not in text.replace(r"\<b\>", "")
    assert "````sh\n```\n# Fake\n````" in text


def test_an_audited_model_names_the_attacks_that_were_not_run() -> None:
    text = model_card(audited())
    assert "## Cost" not in text
    assert "## Attacks that were not run" in text
    assert r"- stored\_records: needs access L5, got L3" in text
