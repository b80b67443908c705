"""The membership audit: a planted leak is found, a clean model left alone, a bad split refused."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from reticent.attacks.membership.battery import Battery
from reticent.attacks.membership.signals import References, Signals
from reticent.attacks.shadow.bank import ShadowBank
from reticent.attacks.shadow.recipe import TrainingRecipe
from reticent.attacks.spec import Access, Labelled
from reticent.attacks.target import Victim
from reticent.audit.blind import blind_baseline
from reticent.audit.epsilon import Confusion, gaussian_epsilon
from reticent.audit.membership import audit_membership
from reticent.audit.membership_controls import negative_control, overfit
from reticent.audit.membership_figures import figures, transferred_threshold
from reticent.audit.rates import roc
from reticent.errors import ConfigError, DataError
from reticent.guarantee import CLIENT, DifferentialPrivacy, Guarantee, Pillar
from reticent.random import seeded

RECIPE = TrainingRecipe(size=600, epochs=12, batch_size=64, optimiser="adam", learning_rate=0.02)


@dataclass(frozen=True, kw_only=True, eq=False)
class World:
    """A victim and shadow models that answer by table, so that the leak is exactly what is planted.

    Two classes; a model's margin on a record is hardness + `effect` where trained + unit noise.
    """

    victim: Victim
    members: Labelled
    non_members: Labelled
    population: Labelled
    bank: ShadowBank

    def audit(self, **options):
        return audit_membership(
            self.victim,
            members=self.members,
            non_members=self.non_members,
            population=self.population,
            bank=self.bank,
            seed=0,
            **options,
        )


def world(effect: float, *, n: int = 1200, z: int = 100, shadows: int = 10, seed: int = 0) -> World:
    rng = seeded(seed + 1, 5)
    x = rng.normal(size=(n + z, 6)).astype(np.float32)
    y = rng.integers(2, size=n + z)
    sizes = RECIPE if n == 1200 else replace(RECIPE, size=n // 2)
    member = rng.random((shadows + 1, n)) < 0.5
    member[0] = np.arange(n) < n // 2
    hardness = rng.normal(size=n + z)
    trained = np.pad(member, ((0, 0), (0, z)))
    margin = hardness + effect * trained + rng.normal(size=trained.shape)
    sides = np.where(y == 1, margin, -margin)
    logs = np.stack([-np.logaddexp(0, sides), -np.logaddexp(0, -sides)], axis=2)
    table = {row.tobytes(): logs[0, i] for i, row in enumerate(x)}
    template = nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 2))
    victim = Victim.of_function(
        lambda batch: np.exp(np.stack([table[row.tobytes()] for row in batch])),
        sample=x,
        recipe=sizes,
        template=template,
    )
    bank = ShadowBank(
        member=member[1:],
        log_probabilities=logs[1:].astype(np.float32),
        y=y,
        recipe=sizes,
        digest="table",
    )
    records = Labelled(x=x, y=y)
    rows = np.arange(n + z)
    return World(
        victim=victim,
        members=records.take(rows < n // 2),
        non_members=records.take((rows >= n // 2) & (rows < n)),
        population=records.take(rows >= n),
        bank=bank,
    )


def claim(epsilon: float, delta: float = 1e-5) -> Guarantee:
    return Guarantee(
        id="training/dp",
        pillar=Pillar.TRAINING_DATA,
        adversary=CLIENT,
        strength=DifferentialPrivacy(
            epsilon=epsilon, delta=delta, neighboring_relation="add or remove one", unit="record"
        ),
        mechanism="as claimed",
        assumptions=(),
        source="test",
    )


def of(findings, attack: str, metric: str):
    return next(f for f in findings if f.attack == attack and f.metric == metric)


def test_a_planted_leak_is_found_and_refutes_a_claim_that_it_exceeds() -> None:
    findings = world(3.0).audit(guarantees=(claim(0.5),))
    area = of(findings, "battery", "AUC")
    assert area.excess_ci[0] > 0.3
    assert area.ceiling == pytest.approx(area.value, abs=0.05)
    assert of(findings, "battery", "TPR at 1% FPR").value > 0.2
    shown = of(findings, "battery", "epsilon lower bound")
    assert shown.contradicts == "training/dp"
    assert 0.5 < shown.value <= shown.details["perfect_attack_epsilon"]
    assert shown.details["control_epsilon"] == pytest.approx(shown.value, abs=1.0)
    assert findings[0].attack == "battery"
    controls = area.details["controls"]
    assert controls["positive"]["passed"]
    assert not controls["positive"]["overfit_twins"]
    assert abs(controls["random truth"]["auc"] - 0.5) < 0.05
    assert area.details["targets"]["count"] == 10
    assert len(area.details["roc"]["fpr"]) <= 200
    assert area.details["cpu_seconds"] > 0
    assert area.details["queries"] == 1300
    json.dumps([found.to_json() for found in findings], allow_nan=False)


def test_every_scorer_that_access_allows_has_a_finding() -> None:
    findings = world(1.0).audit()
    assert {found.attack for found in findings} == {
        "battery", "blind", "label gap", "loss", "quantile", "LiRA online", "LiRA offline",
        "RMIA online", "RMIA offline", "BaVarIA", "difficulty", "learned",
    }  # fmt: skip
    best = of(findings, "battery", "TPR at 1% FPR")
    assert best.value == of(findings, best.details["scorer"], "TPR at 1% FPR").value


def test_a_clean_model_is_left_alone_and_the_attack_proves_itself_on_a_twin() -> None:
    """Nothing leaks from the shadow targets either, so overfit twins must be found instead."""
    findings = world(0.0).audit(guarantees=(claim(0.1),))
    for found in findings:
        if found.metric == "AUC":
            assert found.excess_ci[0] < 0.02, found.attack
    shown = of(findings, "battery", "epsilon lower bound")
    assert shown.contradicts is None
    assert shown.details["status"] == "consistent"
    positive = of(findings, "battery", "AUC").details["controls"]["positive"]
    assert positive["overfit_twins"]
    assert positive["passed"]
    # The twins' curve is drawn beside the model's own.
    twins = shown.details["control_roc"]
    assert max(np.subtract(twins["tpr"], twins["fpr"])) > 0.2


@pytest.mark.parametrize("seed", [1, 2])
def test_a_mechanism_that_keeps_its_claim_is_never_violated(seed: int) -> None:
    """Margins with unit noise and a shift of 1 are 1-Gaussian DP per record."""
    promised = gaussian_epsilon(1.0, 1e-5)
    findings = world(1.0, seed=seed).audit(guarantees=(claim(promised),))
    assert of(findings, "battery", "epsilon lower bound").contradicts is None
    loud = world(10.0, seed=seed).audit(guarantees=(claim(promised),))
    assert of(loud, "battery", "epsilon lower bound").contradicts == "training/dp"


def test_a_claim_above_what_the_sample_could_show_is_inconclusive() -> None:
    found = of(world(1.0, n=400).audit(guarantees=(claim(9.0),)), "battery", "epsilon lower bound")
    assert found.details["status"] == "inconclusive (power)"
    assert found.contradicts is None


def test_rates_that_the_sample_does_not_resolve_are_not_printed() -> None:
    findings = world(2.0, n=400).audit()
    assert not [found for found in findings if found.metric.startswith("TPR")]
    told = of(findings, "battery", "AUC").details["tpr_at"]
    assert told["0.001"].startswith("not resolvable with n=200")


def test_members_that_differ_without_the_model_void_the_audit() -> None:
    made = world(0.0)
    x = made.members.x.copy()
    x[:, 2] += 0.5
    with pytest.raises(DataError, match="without it"):
        audit_membership(
            made.victim,
            members=Labelled(x=x, y=made.members.y),
            non_members=made.non_members,
            seed=0,
        )


def test_the_blind_baseline_sees_labels_and_keeps_users_together() -> None:
    rng = np.random.default_rng(0)
    member = np.arange(800) < 400
    x = rng.normal(size=(800, 3)).astype(np.float32)
    y = np.where(rng.random(800) < np.where(member, 0.7, 0.4), 1, 0)
    assert blind_baseline(Labelled(x=x, y=y), member, seed=0).tells
    # Each user has a signature; without whole users per fold it would tell its side.
    users = np.repeat(np.arange(40), 20)
    signed = (x + 3 * rng.normal(size=(40, 3))[users]).astype(np.float32)
    even = Labelled(x=signed, y=rng.integers(2, size=800), users=users)
    assert not blind_baseline(even, users % 2 == 0, seed=0).tells


def test_scores_that_know_the_truth_without_the_model_fail_the_control() -> None:
    rng = np.random.default_rng(0)
    member = rng.random((4, 500)) < 0.5
    truth = rng.random(500) < 0.5
    signals = Signals(margin=np.zeros((4, 500)), log_confidence=np.zeros((4, 500)), pool=500)
    fair = Battery(
        references=References(signals=signals, member=member),
        models=np.arange(4),
        trials={"x": rng.normal(size=(4, 500))},
        strength={"x": 0.0},
        chosen="x",
        learned=None,
    )
    assert abs(negative_control(fair, truth)["auc"] - 0.5) < 0.05
    with pytest.raises(DataError, match="independently"):
        negative_control(replace(fair, trials={"x": fair.trials["x"] + truth}), truth)


def test_two_shadow_models_choose_nothing_and_show_no_epsilon() -> None:
    findings = world(2.5, n=400, shadows=2).audit()
    area = of(findings, "battery", "AUC")
    assert area.details["scorer"] == "RMIA online"
    assert area.excess_ci[0] > 0.1
    assert area.details["controls"]["positive"]["overfit_twins"]
    assert not [found for found in findings if found.metric == "epsilon lower bound"]


def test_lower_access_runs_lower_attacks_only() -> None:
    made = world(3.0, n=400)
    blind = made.audit(access=Access.BLIND)
    assert {found.attack for found in blind} == {"blind"}
    scores = made.audit(access=Access.SCORES)
    assert {found.attack for found in scores} == {"blind", "label gap", "loss", "quantile"}
    assert of(scores, "loss", "AUC").excess_ci[0] > 0.2


def test_labels_alone_show_an_overfit_model() -> None:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 8)).astype(np.float32)
    y = rng.integers(2, size=600)
    net = nn.Sequential(nn.Linear(8, 128), nn.ReLU(), nn.Linear(128, 2))
    optimiser = torch.optim.Adam(net.parameters(), lr=0.01)
    for _epoch in range(300):
        optimiser.zero_grad()
        out = net(torch.from_numpy(x[:300]))
        nn.functional.cross_entropy(out, torch.from_numpy(y[:300])).backward()
        optimiser.step()
    records = Labelled(x=x, y=y)
    findings = audit_membership(
        Victim.of_module(net.eval(), sample=x),
        members=records.take(np.arange(300)),
        non_members=records.take(np.arange(300, 600)),
        access=Access.LABEL,
        seed=0,
    )
    names = {"blind", "label gap", "noise robustness", "boundary distance"}
    assert {found.attack for found in findings} == names
    for name in names - {"blind"}:
        found = next(found for found in findings if found.attack == name)
        assert found.details["auc_ci"][0] > 0.6


def test_the_whole_audit_on_real_training_with_users() -> None:
    """Shadow models are trained; records of one user stand on one side."""
    torch.manual_seed(1)
    rng = np.random.default_rng(1)
    x = rng.normal(size=(500, 10)).astype(np.float32)
    y = np.where(rng.random(500) < 0.3, rng.integers(2, size=500), x[:, 0] > 0).astype(np.int64)
    records = Labelled(x=x, y=y, users=np.arange(500) // 5)
    recipe = TrainingRecipe(
        size=250, epochs=25, batch_size=32, optimiser="adam", learning_rate=0.01, weight_decay=0
    )
    template = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 2))
    members = np.isin(records.users, rng.permutation(100)[:50])
    net = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 2))
    optimiser = torch.optim.Adam(net.parameters(), lr=0.01)
    inputs, labels = torch.from_numpy(x[members]), torch.from_numpy(y[members])
    for _epoch in range(25):
        for rows in torch.randperm(250).split(32):
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(inputs[rows]), labels[rows]).backward()
            optimiser.step()
    findings = audit_membership(
        Victim.of_module(net.eval(), sample=x, recipe=recipe, template=template),
        members=records.take(members),
        non_members=records.take(~members),
        shadows=12,
        seed=0,
    )
    record = of(findings, "battery", "AUC")
    user = of(findings, "battery, per user", "AUC")
    assert record.excess_ci[0] > 0.05
    assert user.n == 100
    assert user.value > record.value
    assert user.details["mixed_users"] == 0


def test_an_estimator_is_audited_by_its_own_parameters() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(240, 60)).astype(np.float32)
    y = rng.integers(2, size=240)
    records = Labelled(x=x, y=y)
    model = LogisticRegression(C=100.0, max_iter=300).fit(x[:120], y[:120])
    findings = audit_membership(
        Victim.of_estimator(model, sample=x),
        members=records.take(np.arange(120)),
        non_members=records.take(np.arange(120, 240)),
        shadows=8,
        seed=0,
    )
    assert of(findings, "battery", "AUC").excess_ci[0] > 0.2


def test_a_bank_of_other_records_or_another_recipe_is_refused() -> None:
    made = world(1.0, n=400)
    other = replace(made, bank=replace(made.bank, y=1 - made.bank.y))
    with pytest.raises(ConfigError, match="bank"):
        other.audit()
    with pytest.raises(ConfigError, match="recipe"):
        replace(made, bank=replace(made.bank, recipe=replace(made.bank.recipe, epochs=3))).audit()


def test_too_few_records_are_refused() -> None:
    made = world(1.0, n=400)
    few = made.members.take(np.arange(20))
    with pytest.raises(DataError, match="30"):
        audit_membership(made.victim, members=few, non_members=made.non_members, seed=0)


def test_the_threshold_comes_from_other_targets_and_promises_most_on_them() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random(2000) < 0.5
    curves = [roc(rng.normal(size=2000) + 1.5 * truth, truth) for _ in range(6)]
    found = transferred_threshold(curves, members=1000, non_members=1000, delta=1e-5)
    scores = rng.normal(size=(25, 2000)) + 1.5 * truth

    def shown(threshold: float) -> float:
        bounds = []
        for row in scores:
            bounds.append(Confusion.at(row, truth, threshold).epsilon_lower_bound(delta=1e-5))
        return float(np.mean(bounds))

    assert shown(found) > 0.95 * max(shown(t) for t in np.linspace(-2, 4, 31))


def test_figures_lead_with_the_lowest_rate_that_is_resolved() -> None:
    rng = np.random.default_rng(0)
    truth = np.arange(8000) < 4000
    names = [each.metric for each in figures(roc(rng.normal(size=8000), truth))]
    assert names == ["TPR at 0.1% FPR", "TPR at 1% FPR", "AUC", "advantage"]
    fewer = truth[3500:4500]
    assert figures(roc(rng.normal(size=1000), fewer))[0].metric == "TPR at 1% FPR"


def test_an_overfit_twin_has_no_protection_left() -> None:
    recipe = replace(RECIPE, clip_norm=1.0, noise_multiplier=2.0, keep="best", held_out=5)
    made = overfit(recipe)
    assert (made.clip_norm, made.noise_multiplier, made.weight_decay) == (None, 0.0, 0.0)
    assert made.epochs > recipe.epochs
    assert (made.optimiser, made.size) == (recipe.optimiser, recipe.size)
