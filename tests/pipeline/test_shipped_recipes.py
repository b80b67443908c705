"""Shipped recipes run from data to scorecard on the data that every installation has."""

from __future__ import annotations

from pathlib import Path

import pytest

from reticent.audit.scorecard import Verdict
from reticent.guarantee import Pillar
from reticent.inference import bundle as bundles
from reticent.pipeline.recipe import load_recipe
from reticent.pipeline.run import run

RECIPES = Path(__file__).parents[2] / "recipes"
QUICK = ("audit.quick=true", "audit.requests=[1,8]")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["machine-health", "anomaly"])
def test_a_recipe_runs_from_data_to_scorecard(name: str, tmp_path: Path) -> None:
    """A regression and a one-class network: no attack gets past its floor by a bit."""
    recipe = load_recipe(RECIPES / f"{name}.toml", QUICK)
    made = run(recipe, tmp_path / name, report=lambda text: None)
    card = made.scorecard
    assert card.verdict is not Verdict.CONTRADICTED
    rows = card.pillars[Pillar.INPUT]
    assert rows.guarantees[0].allowed_excess(8) == 0
    attacked = [finding for finding in rows.findings if finding.metric == "balanced accuracy"]
    assert attacked
    for finding in attacked:
        assert (finding.excess, finding.excess_ci) == (0, (0, 0))
    assert card.utility is not None
    assert card.cost is not None
    assert card.utility.loss < 0.05
    assert card.cost.client_flops_share <= 0.3
    assert card.task.synthetic
    assert bundles.load(made.bundle.folder).manifest["choices"]
