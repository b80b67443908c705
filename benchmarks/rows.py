"""One result of a benchmark, as every benchmark here prints it."""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]


def row(
    case: str, metric: str, ours: float, rival: float | None, rival_name: str, **more: Any
) -> Row:
    """One result; `better` says whether a higher figure is better (default: lower)."""
    higher = more.pop("higher", False)
    ratio = None
    if rival is not None and min(ours, rival) > 0:
        ratio = round(ours / rival if higher else rival / ours, 3)
    return {
        "case": case,
        "metric": metric,
        "ours": round(ours, 4),
        "rival": None if rival is None else round(rival, 4),
        "rival_name": rival_name,
        "ratio": ratio,
        **more,
    }
