"""Renderings of a scorecard: HTML report, terminal table, model card.

None of them decides anything: verdict and statuses come from `reticent.audit.scorecard`.
"""

from __future__ import annotations

from reticent.report.card import model_card
from reticent.report.gallery import Gallery
from reticent.report.html import render, write_report
from reticent.report.text import render_text

__all__ = ["Gallery", "model_card", "render", "render_text", "write_report"]
