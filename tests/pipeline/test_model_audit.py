"""Auditing finished models: what leaks is found, what doesn't is not, and nothing is silent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier
from torch import nn

from reticent.attacks.shadow.recipe import TrainingRecipe
from reticent.audit.material import parse_claim
from reticent.audit.scorecard import Scorecard, Status, Verdict
from reticent.data.files import from_arrays
from reticent.errors import ConfigError, DataError
from reticent.guarantee import Pillar
from reticent.pipeline.model_audit import audit_model
from reticent.report import Gallery, write_report

COUNT = 1200
MEMBERS, OTHERS, POPULATION = np.arange(400), np.arange(400, 800), np.arange(800, 1200)


def noisy_task() -> Any:
    """Labels that are half noise: whoever learns the members' by heart leaks them."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=(COUNT, 12)).astype(np.float32)
    y = (x[:, 0] + rng.normal(0, 1.5, COUNT) > 0).astype(np.int64)
    sex = x[:, 1] + rng.normal(size=COUNT) > 0
    return from_arrays(x, y, {"sex": sex.astype(int)})


TASK = noisy_task()


def audit(model: Any, **changes: Any) -> Scorecard:
    settings: dict[str, Any] = {
        "members": MEMBERS, "non_members": OTHERS, "population": POPULATION,
        "attacks": ("membership",), "shadows": 8,
    }  # fmt: skip
    return audit_model(model, TASK, **(settings | changes))


def best(card: Scorecard, metric: str) -> Any:
    found = [f for f in card.pillars[Pillar.TRAINING_DATA].findings if f.metric == metric]
    return max(found, key=lambda finding: finding.value)


@pytest.fixture(scope="module")
def tree() -> DecisionTreeClassifier:
    return DecisionTreeClassifier(random_state=0).fit(TASK.x[MEMBERS], TASK.public[MEMBERS])


def test_a_tree_that_knows_its_records_by_heart_is_caught(tree: DecisionTreeClassifier) -> None:
    card = audit(tree, claims=[parse_claim("epsilon=0.1,delta=1e-5")])
    assert best(card, "TPR at 1% FPR").excess_ci[0] > 0 or best(card, "AUC").excess_ci[0] > 0.1
    assert card.verdict is Verdict.CONTRADICTED
    assert card.status(card.guarantees[0]) is Status.VIOLATED
    assert (card.utility, card.cost) == (None, None)
    again = Scorecard.from_json(json.loads(json.dumps(card.to_json())))
    assert again.verdict is Verdict.CONTRADICTED


def test_a_model_of_one_weight_shows_nothing() -> None:
    plain = LogisticRegression(C=1e-4).fit(TASK.x[MEMBERS], TASK.public[MEMBERS])
    card = audit(plain, claims=[parse_claim("epsilon=1,delta=1e-5")])
    assert best(card, "AUC").excess_ci[0] <= 0.05
    assert card.verdict is Verdict.HOLDS


def test_a_model_that_gives_labels_only_is_attacked_by_labels() -> None:
    card = audit(LinearSVC(C=10.0).fit(TASK.x[MEMBERS], TASK.public[MEMBERS]))
    used = {finding.details["access"] for finding in card.findings}
    assert used == {"L0 (blind)", "L1 (label)"}


def test_an_undefended_twin_gives_utility(tree: DecisionTreeClassifier) -> None:
    plain = LogisticRegression().fit(TASK.x[MEMBERS], TASK.public[MEMBERS])
    card = audit(plain, undefended=tree, access="L1")
    assert card.utility is not None
    right = (tree.predict(TASK.x[OTHERS]) == TASK.public[OTHERS]).mean()
    assert card.utility.baseline == pytest.approx(right)
    assert card.utility.loss < 0  # the tree is worse: protection gained


def test_a_network_in_training_mode_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"Call model\.eval\(\)"):
        audit(nn.Linear(12, 2).train())


def test_a_network_without_recipe_is_audited_without_reference_models() -> None:
    torch.manual_seed(0)
    card = audit(nn.Linear(12, 2).eval(), access="L3")
    assert not any(f.attack == "battery" for f in card.findings)


def test_members_of_another_kind_void_the_audit(tree: DecisionTreeClassifier) -> None:
    """The non-members are shifted: any attack would measure the shift, not the model."""
    x = TASK.x.copy()
    x[OTHERS] += 1.0
    with pytest.raises(DataError, match="Draw both at random"):
        audit_model(
            tree, from_arrays(x, TASK.public), members=MEMBERS, non_members=OTHERS,
            attacks=("membership",), access="L2",
        )  # fmt: skip


def test_the_recipe_of_a_network_makes_reference_models() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 64), nn.ReLU(), nn.Linear(64, 2))
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    x, y = torch.from_numpy(TASK.x[MEMBERS]), torch.from_numpy(TASK.public[MEMBERS])
    for _ in range(60):
        for rows in torch.randperm(len(x)).split(64):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimiser.step()
    recipe = TrainingRecipe(
        size=400, epochs=60, optimiser="adam", learning_rate=0.01, weight_decay=0.0,
        schedule="constant",
    )  # fmt: skip
    card = audit(model.eval(), recipe=recipe)
    battery = best(card, "AUC")
    assert battery.excess_ci[0] > 0.1
    assert battery.ceiling is not None


def test_every_level_runs_what_it_allows_and_names_the_rest(
    tree: DecisionTreeClassifier, tmp_path: Path
) -> None:
    """Everything at once on an estimator: what needs a network or a closed form says so."""
    card = audit(tree, attacks=("all",), access="L5", shadows=4)
    ran = {finding.attack.split(",")[0] for finding in card.findings}
    assert {"battery", "stored records", "attribute inference from outputs"} <= ran
    assert set(card.untested) == {"property", "gradients", "informed"} | (
        {"model_inversion", "extraction"} & set(card.untested)
    )
    write_report(tmp_path / "report.html", card)
    assert "How strong the attacks were" in (tmp_path / "report.html").read_text()


def test_rebuilt_records_become_pictures(tmp_path: Path) -> None:
    torch.manual_seed(0)
    shown: list[Gallery] = []
    plain = LogisticRegression().fit(TASK.x[MEMBERS], TASK.public[MEMBERS])
    card = audit(plain, attacks=("informed",), access="L5", keep=shown.append)
    assert card.findings[0].value == 1.0
    write_report(tmp_path / "report.html", card, rebuilt=shown)
    assert "What attackers rebuilt" in (tmp_path / "report.html").read_text()


def test_a_function_has_no_architecture_to_train_reference_models_of() -> None:
    """Knowing the training is of no use without the network: the audit stays with scores."""
    plain = LogisticRegression().fit(TASK.x[MEMBERS], TASK.public[MEMBERS])
    card = audit(
        plain.predict_proba, outputs="probabilities", access="L3",
        recipe=TrainingRecipe(size=400), claims=[parse_claim("epsilon=1,delta=1e-5")],
    )  # fmt: skip
    assert not any(f.attack == "battery" for f in card.findings)
    assert card.status(card.guarantees[0]) is Status.NOT_TESTED
