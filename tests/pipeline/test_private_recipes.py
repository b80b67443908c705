"""Recipes that train privately: paid first, certified, attacked, and never trained for free."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from reticent.audit.scorecard import Status, Verdict
from reticent.cli import app
from reticent.cli.frame import call
from reticent.errors import (
    BudgetExhaustedError,
    ConfigError,
    DataError,
    EvidenceError,
    UnsupportedError,
)
from reticent.guarantee import DifferentialPrivacy, Pillar
from reticent.inference.deployed import local_pair
from reticent.models import checkpoint
from reticent.models.networks import Standardise
from reticent.pipeline import private_audit
from reticent.pipeline.compare import compare
from reticent.pipeline.private_training import UNPAID, mechanism_of, recipe_units, task_units
from reticent.pipeline.recipe import Recipe, load_recipe
from reticent.pipeline.run import run
from reticent.pipeline.stage import by_regime, prepare
from reticent.pipeline.subject import of_checkpoint
from reticent.pipeline.tasks import load_task
from reticent.privacy.certificate import check_certificate
from reticent.privacy.ledger import Cap, Ledger, SQLiteStore
from reticent.training.dp_sgd.accountant import epsilon
from reticent.training.dp_sgd.charged import RENYI

pytest.importorskip("dp_accounting")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """600 records of 40 users: two classes that one coordinate tells apart, far from centred."""
    rng = np.random.default_rng(0)
    public = rng.integers(0, 2, 600)
    x = rng.normal(0, 0.3, (600, 6)) + 3.0
    x[:, 0] += 2.0 * public - 1.0
    path = tmp_path_factory.mktemp("private") / "clinic.npz"
    users = np.arange(600) % 40
    np.savez(path, x=x.astype(np.float32), public=public, mark=users % 3, user=users)
    return path


def recipe_of(data: Path, **private: Any) -> Recipe:
    task: dict[str, Any] = {"data": str(data), "private": ["mark"], "regime": "known"}
    if private.pop("unit", "record") == "user":
        task["unit"] = "user"
    return Recipe.from_dict(
        {
            "name": "clinic",
            "task": task,
            "model": {"name": "mlp", "options": {"widths": []}},
            "train": {
                "private": {
                    "epsilon": 2.0,
                    "delta": 1e-5,
                    "steps": 40,
                    "expected_batch": 100,
                    "low": 1.0,
                    "high": 5.0,
                    **private,
                }
            },
            "inference": {"channel": "plain"},
            "audit": {"quick": True, "seeds": 1, "requests": [1]},
        },
        source="test",
    )


def granted(folder: Path, recipe: Recipe, *, epsilon: float = 3.0) -> Path:
    path = folder / "budget.db"
    task = load_task(recipe)
    ledger = Ledger.create(path)
    unit = recipe.task.unit
    cap = Cap(epsilon=epsilon, delta=1e-4)
    ledger.grant(task.name, task_units(task, unit), cap=cap, unit=unit)
    ledger.close()
    return path


def spent(path: Path) -> float:
    ledger = Ledger.open(path)
    (balance,) = ledger.balances()
    ledger.close()
    return float(balance.epsilon)


def trained(recipe: Recipe) -> Any:
    return prepare(recipe, load_task(recipe), "known", report=lambda text: None)


@pytest.mark.slow
def test_a_run_claims_what_the_ledger_was_charged_and_is_attacked(
    data: Path, tmp_path: Path
) -> None:
    ledger = granted(tmp_path, recipe_of(data))
    recipe = recipe_of(data, ledger=str(ledger))
    made = run(recipe, tmp_path / "clinic", report=lambda text: None)
    row = made.scorecard.pillars[Pillar.TRAINING_DATA]
    (claim,) = row.guarantees
    assert isinstance(claim.strength, DifferentialPrivacy)
    assert (claim.strength.unit, claim.strength.delta) == ("record", 1e-5)
    assert 1.8 < claim.strength.epsilon <= 2.0
    assert 0 < spent(ledger) <= 2.0
    # A thousand canaries in the trainer that was used could have contradicted, and did not.
    assert made.scorecard.status(claim) is Status.CONSISTENT
    assert made.scorecard.verdict is Verdict.HOLDS
    assert not made.scorecard.pillars[Pillar.INPUT].guarantees
    stored = made.bundle.folder / "server" / "deployed"
    assert checkpoint.load_guarantees(stored) == (claim,)
    public = Ledger.open(ledger).key.public
    record = check_certificate(
        stored / "certificate.json", public=public, ledger=SQLiteStore(ledger)
    )
    assert record["output_sha256"] == checkpoint.weights_digest(checkpoint.load(stored)[0])
    assert dict(record["epsilon_by_delta"])[1e-5] == pytest.approx(claim.strength.epsilon)
    assert record["audit"]["findings"]
    # The same model under audit claims exactly that.
    assert of_checkpoint(stored).claims == (claim,)
    # And its records are paid for once: the same run again is refused, and charges nothing.
    before = spent(ledger)
    with pytest.raises(ConfigError, match="state="):
        run(recipe, tmp_path / "again", report=lambda text: None)
    with pytest.raises(BudgetExhaustedError):
        trained(recipe_of(data, ledger=str(ledger), key="another", epsilon=2.5))
    assert spent(ledger) == before
    assert not (tmp_path / "again").exists()
    # What was paid for serves again, certificate and all, and can't be overwritten by accident.
    kept = tmp_path / "clinic-model"
    reused = Recipe.from_dict({**recipe.to_dict(), "model": {"checkpoint": str(kept)}})
    run(reused, tmp_path / "reused", report=lambda text: None, attacks=False)
    second = tmp_path / "reused" / "server" / "deployed"
    assert checkpoint.load_guarantees(second) == (claim,)
    check_certificate(second / "certificate.json", public=public, ledger=SQLiteStore(ledger))
    other = recipe_of(data, ledger=str(ledger), key="another", epsilon=0.1)
    with pytest.raises(ConfigError, match="paid for"):
        run(other, tmp_path / "clinic", report=lambda text: None, force=True)
    with pytest.raises(ConfigError, match="exists"):
        run(other, tmp_path / "clinic", report=lambda text: None)
    assert spent(ledger) == before


def test_nothing_of_the_network_was_fitted_to_the_data_without_privacy(data: Path) -> None:
    """Means and deviations of the training part would be a release that nobody paid for."""
    stage = trained(recipe_of(data, ledger="none"))
    (fixed,) = [m for m in stage.model.modules() if isinstance(m, Standardise)]
    torch.testing.assert_close(fixed.mean, torch.full_like(fixed.mean, 3.0))
    torch.testing.assert_close(fixed.std, torch.full_like(fixed.std, 2.0))
    assert float(stage.test_outcomes().mean()) > 0.9
    assert stage.private.certificate("00") is None
    # Nobody paid, and the claim itself says so wherever it goes.
    assert UNPAID in stage.guarantees[0].assumptions


def test_batch_normalisation_gives_way_to_group_normalisation(tmp_path: Path) -> None:
    record = recipe_of(Path("digits"), ledger="none", low=0.0, high=1.0).to_dict()
    record["task"] = {"data": "digits", "regime": "known"}
    record["model"] = {"name": "convnet2d", "options": {"widths": [4], "hidden": [8]}}
    record["train"]["private"]["steps"] = 2
    stage = trained(Recipe.from_dict(record))
    kinds = {type(module).__name__ for module in stage.model.modules()}
    assert "GroupNorm" in kinds
    assert "BatchNorm2d" not in kinds


def test_a_recipe_shows_images_as_views_for_the_same_cost() -> None:
    record = recipe_of(Path("digits"), ledger="none", low=0.0, high=1.0).to_dict()
    record["task"] = {"data": "digits", "regime": "known"}
    record["model"] = {"name": "convnet2d", "options": {"widths": [4], "hidden": [8]}}
    record["train"]["private"]["steps"] = 2
    plain = trained(Recipe.from_dict(record))
    record["train"]["private"] |= {"augment": "shift", "augmentations": 3}
    assert trained(Recipe.from_dict(record)).private.mechanism == plain.private.mechanism
    del record["train"]["private"]["augment"]
    with pytest.raises(ConfigError, match="augment"):
        Recipe.from_dict(record)


def test_views_of_records_that_are_no_images_are_refused(data: Path, tmp_path: Path) -> None:
    ledger = granted(tmp_path, recipe_of(data))
    with pytest.raises(ConfigError, match="images"):
        trained(recipe_of(data, ledger=str(ledger), augment="flip", augmentations=4))
    assert spent(ledger) == 0


@pytest.mark.slow
def test_users_pay_as_users(data: Path, tmp_path: Path) -> None:
    ledger = granted(tmp_path, recipe_of(data, unit="user"))
    made = trained(recipe_of(data, unit="user", records_per_user=3, ledger=str(ledger)))
    (claim,) = made.guarantees
    assert claim.strength.unit == "user"
    assert made.private.mechanism.records_per_user == 3
    assert made.private.mechanism.capacity is None
    assert made.private.entry.charged_as == RENYI
    # A second accountant, with room for its looser conversion, agrees on what was charged.
    assert epsilon(made.private.mechanism, 1e-4) <= spent(ledger)
    assert 0 < spent(ledger) <= 2.0
    with pytest.raises(ConfigError, match="unit"):
        trained(recipe_of(data, ledger=str(ledger)))


def test_records_with_no_budget_are_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="budget grant"):
        trained(recipe_of(data, ledger=str(tmp_path / "none.db")))
    recipe = recipe_of(data)
    task = load_task(recipe)
    ledger = Ledger.create(tmp_path / "budget.db")
    few = task_units(task, "record")[:300]
    ledger.grant(task.name, few, cap=Cap(epsilon=3, delta=1e-4))
    ledger.close()
    with pytest.raises(EvidenceError, match="others"):
        trained(recipe_of(data, ledger=str(tmp_path / "budget.db")))
    assert spent(tmp_path / "budget.db") == 0


@pytest.mark.slow
def test_a_killed_run_stays_charged(data: Path, tmp_path: Path) -> None:
    recipe = recipe_of(data)
    ledger = granted(tmp_path, recipe)
    slow = recipe_of(data, ledger=str(ledger), steps=100_000)
    path = tmp_path / "slow.toml"
    path.write_text(slow.to_toml())
    command = [sys.executable, "-m", "reticent.cli", "train", str(path)]
    command += ["--out", str(tmp_path / "m")]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, env={**os.environ}) as process:
        deadline = time.monotonic() + 120
        while spent(ledger) == 0 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
    assert spent(ledger) > 1.5
    assert not (tmp_path / "m" / "model.safetensors").exists()
    # The charge was for a run that is gone; its key is no free second try.
    with pytest.raises(ConfigError, match="state="):
        trained(slow)


def test_the_command_line_pays_and_says_so(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "clinic.toml"
    path.write_text(recipe_of(data).to_toml())
    db = str(tmp_path / "budget.db")
    grant = ["budget", "grant", str(path), "--epsilon", "3", "--delta", "1e-4", "--ledger", db]
    assert call(app, [*grant, "--name", "people"]) == 0
    out = str(tmp_path / "model")
    train = ["train", str(path), "--ledger", db, "--dataset", "people", "--json"]
    capsys.readouterr()
    assert call(app, [*train, "--out", out]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["guarantees"][0]["strength"]["unit"] == "record"
    assert record["charge"]["charge"]
    certificate = f"{out}/certificate.json"
    verify = ["budget", "verify", "--ledger", db, "--certificate"]
    assert call(app, [*verify, certificate]) == 0
    altered = json.loads(Path(certificate).read_text())
    altered["claim"]["strength"]["epsilon"] = 1.0
    (tmp_path / "altered.json").write_text(json.dumps(altered))
    assert call(app, [*verify, str(tmp_path / "altered.json")]) == 5
    assert call(app, [*train, "--key", "again", "--out", str(tmp_path / "no")]) == 4
    assert not (tmp_path / "no").exists()


def test_a_certificate_of_another_key_or_charge_is_refused(data: Path, tmp_path: Path) -> None:
    ledger = granted(tmp_path, recipe_of(data))
    stage = trained(recipe_of(data, ledger=str(ledger)))
    path = tmp_path / "certificate.json"
    path.write_text(json.dumps(stage.private.certificate("ab" * 32)))
    public = Ledger.open(ledger).key.public
    assert check_certificate(path, public=public)["output_sha256"] == "ab" * 32
    other = tmp_path / "other"
    other.mkdir()
    stranger = granted(other, recipe_of(data))
    with pytest.raises(EvidenceError, match="another ledger's key"):
        check_certificate(path, public=Ledger.open(stranger).key.public)
    with pytest.raises((EvidenceError, DataError)):
        check_certificate(path, public=public, ledger=SQLiteStore(stranger))
    with pytest.raises(EvidenceError, match="schema"):
        check_certificate(stranger, public=public)


def test_what_would_void_the_claim_is_refused(data: Path, tmp_path: Path) -> None:
    record = recipe_of(data).to_dict()
    for channel in ("split", "sealed"):
        with pytest.raises(ConfigError, match="reads the training records again"):
            Recipe.from_dict(
                {**record, "inference": {"channel": channel}, "scenario": {}}, source="test"
            )
    with pytest.raises(ConfigError, match="frontier"):
        Recipe.from_dict({**record, "audit": {"frontier": ["center"]}}, source="test")
    with pytest.raises(UnsupportedError, match="reads the training records again"):
        compare(recipe_of(data), None, report=lambda text: None)
    with pytest.raises(ConfigError, match="epochs"):
        Recipe.from_dict({**record, "train": {**record["train"], "epochs": 3}}, source="test")
    with pytest.raises(ConfigError, match="low < high"):
        recipe_of(data, low=2.0, high=2.0)
    with pytest.raises(ConfigError, match="user"):
        recipe_of(data, records_per_user=2)
    with pytest.raises(ConfigError, match="expected_batch"):
        trained(recipe_of(data, expected_batch=100_000, ledger="none"))
    stage = trained(recipe_of(data, ledger="none"))
    with pytest.raises(UnsupportedError, match="void"):
        stage.harden(recipe_of(data), method="adapter_code")


def test_a_private_linear_model_answers_ciphertexts_and_keeps_every_claim(
    data: Path, tmp_path: Path
) -> None:
    """Nothing is fitted to the records to encrypt it, so that all three claims stand together."""
    record = recipe_of(data, ledger="none").to_dict()
    record |= {"inference": {"channel": "ckks", "options": {"goal": "upload"}}, "scenario": {}}
    made = run(Recipe.from_dict(record), tmp_path / "both", report=lambda text: None, attacks=False)
    assert any("no ledger" in notice for notice in made.scorecard.notices)
    claimed = {claim.pillar for claim in made.scorecard.guarantees}
    assert claimed == {Pillar.TRAINING_DATA, Pillar.INPUT, Pillar.OUTPUT}
    client, server = local_pair(made.bundle.folder)
    task = load_task(Recipe.from_dict(record))
    rows = np.arange(0, 600, 60)
    got = client.decode(server.answer(client.encode(task.x[rows])))
    assert (got == task.public[rows]).mean() >= 0.9
    record["model"]["options"] = {"widths": [8]}
    with pytest.raises(UnsupportedError, match="linear"):
        run(Recipe.from_dict(record), tmp_path / "no", report=lambda text: None, attacks=False)


def test_half_the_noise_is_found_from_inside(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = recipe_of(data, ledger="none")
    stage = trained(recipe)

    def contradictions() -> int:
        found = private_audit.audit_stage(recipe, stage, report=lambda text: None)
        assert found
        return sum(finding.contradicts is not None for finding in found)

    assert contradictions() == 0
    whole = mechanism_of(recipe.train.private, len(stage.partition.train))
    half = replace(whole, noise_multiplier=whole.noise_multiplier / 2)
    monkeypatch.setattr(private_audit, "mechanism_of", lambda private, n: half)
    assert contradictions() > 0


def test_two_regimes_are_one_private_training(data: Path) -> None:
    record = recipe_of(data).to_dict()
    record["task"]["regime"] = "both"
    record["audit"]["quick"] = False
    recipe = Recipe.from_dict(record)
    assert by_regime(recipe, load_task(recipe)) == {"known": ["mark"]}


def regression(folder: Path, **private: Any) -> Recipe:
    """400 records of 40 users whose label is linear in two coordinates, between 20 and 80."""
    rng = np.random.default_rng(0)
    x = rng.uniform(1, 5, (400, 4)).astype(np.float32)
    public = (50 + 6 * (x[:, 0] - 3) - 4 * (x[:, 1] - 3)).astype(np.float32)
    users = np.arange(400) % 40
    path = folder / "dose.npz"
    np.savez(path, x=x, public=public, mark=users % 3, user=users)
    given = {"label_low": 20.0, "label_high": 80.0, "epsilon": 8.0, "learning_rate": 0.3}
    return recipe_of(path, **{**given, **private})


@pytest.mark.slow
def test_a_regression_is_paid_for_attacked_and_served(tmp_path: Path) -> None:
    ledger = granted(tmp_path, regression(tmp_path), epsilon=9.0)
    recipe = regression(tmp_path, ledger=str(ledger))
    made = run(recipe, tmp_path / "dose", report=lambda text: None)
    (claim,) = made.scorecard.pillars[Pillar.TRAINING_DATA].guarantees
    assert made.scorecard.status(claim) is Status.CONSISTENT
    assert made.scorecard.utility.metric == "R2"
    assert made.scorecard.utility.protected > 0.7
    assert 0 < spent(ledger) <= 8.0
    client, server = local_pair(made.bundle.folder)
    task = load_task(recipe)
    got = client.decode(server.answer(client.encode(task.x[:50])))
    assert float(np.corrcoef(got, task.public[:50])[0, 1]) > 0.8


def test_nothing_of_a_regression_is_laid_on_its_labels(tmp_path: Path) -> None:
    """The output's unit and the levels of answers come from the public range."""
    stage = trained(regression(tmp_path, ledger="none", steps=2))
    unit = stage.model.get_submodule("output.1")
    assert (float(unit.offset), float(unit.scale)) == (50.0, 30.0)
    values = stage.answers.values
    assert values is not None
    assert 20 < values[0] < 25
    assert 75 < values[-1] < 80


def test_a_regression_needs_its_labels_range_and_classes_have_none(
    data: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="label_low"):
        trained(regression(tmp_path, ledger="none", label_low=None, label_high=None))
    with pytest.raises(ConfigError, match="label_low"):
        trained(recipe_of(data, ledger="none", label_low=0.0, label_high=1.0))
    record = regression(tmp_path, ledger=str(granted(tmp_path, regression(tmp_path)))).to_dict()
    record["audit"]["attacks"] = ["membership"]
    with pytest.raises(ConfigError, match="class probabilities"):
        trained(Recipe.from_dict(record))
    assert spent(tmp_path / "budget.db") == 0
    for wrong in ({"label_low": None}, {"label_low": 90.0}):
        with pytest.raises(ConfigError, match="label_low"):
            regression(tmp_path, **wrong)


def test_a_grant_by_recipe_is_one_by_content(tmp_path: Path) -> None:
    path = Path(__file__).parents[2] / "recipes" / "private-digits.toml"
    name, units, unit = recipe_units(path)
    assert (name, unit, len(units)) == ("digits", "record", 1797)
    assert units == task_units(load_task(load_recipe(path)), "record")
