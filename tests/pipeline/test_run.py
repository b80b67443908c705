"""A run, end to end: what it claims, what it measured, what it wrote."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from marks import make_recipe

from reticent.audit.scorecard import Scorecard, Verdict
from reticent.data import load
from reticent.errors import BundleError, ConfigError, GateError
from reticent.guarantee import InformationBound, Pillar
from reticent.inference import bundle as bundles
from reticent.inference.channel import ask
from reticent.inference.split.client import SplitClient
from reticent.inference.split.server import load_server
from reticent.pipeline import attack as attacking
from reticent.pipeline.published import audit_bundle
from reticent.pipeline.run import Result, run
from reticent.transcript import Transcript


def test_a_code_per_label_leaks_nothing_and_the_undefended_cut_leaks(result: Result) -> None:
    findings = [
        found
        for found in result.scorecard.pillars[Pillar.INPUT].findings
        if found.target == "person"
    ]
    assert {found.requests for found in findings} == {1, 8}
    for found in findings:
        assert found.excess == 0
        assert found.excess_ci == (0, 0)
        assert found.ceiling is not None
        assert found.ceiling > found.floor + 0.3
    assert result.scorecard.verdict is Verdict.HOLDS


def test_the_scorecard_says_what_is_not_protected(result: Result) -> None:
    pillars = result.scorecard.pillars
    assert not pillars[Pillar.OUTPUT].guarantees
    assert not pillars[Pillar.MODEL].guarantees
    assert not pillars[Pillar.TRAINING_DATA].guarantees
    alone = result.scorecard.alone
    assert alone.few_shot[1] > 0.8
    assert alone.utility is not None


def test_the_claim_in_the_manifest_is_zero_in_total(result: Result) -> None:
    (claim,) = bundles.load(result.bundle.folder).guarantees
    assert isinstance(claim.strength, InformationBound)
    assert (claim.strength.nats, claim.strength.scope) == (0, "total")


def test_the_bundle_holds_what_the_contract_names(result: Result) -> None:
    names = {path.relative_to(result.bundle.folder).as_posix()
             for path in result.bundle.folder.rglob("*") if path.is_file()}  # fmt: skip
    assert {"manifest.json", "client/encoder.onnx", "client/spec.json", "server/spec.json",
            "scorecard.json", "report.html", "card.md", "recipe.toml"} <= names  # fmt: skip
    record = json.loads((result.bundle.folder / "scorecard.json").read_text())
    assert {"schema", "task", "utility", "cost", "pillars", "verdict"} <= record.keys()
    assert Scorecard.from_json(record).verdict is result.scorecard.verdict


def test_published_halves_answer_as_the_deployment_did(result: Result, arrays: Path) -> None:
    task = load(str(arrays))
    client = SplitClient.load(result.bundle.client)
    server = load_server(result.bundle.server)
    transcript = Transcript()
    answers = ask(client, server, task.x, transcript=transcript)
    assert (answers == task.public).mean() > 0.85
    sent = [message.payload for message in transcript if message.sender == "client"]
    assert [(value.dtype, value.shape) for value in sent] == [(np.uint8, (len(task), 1))]


def test_auditing_the_bundle_attacks_the_served_files(result: Result) -> None:
    card, attacked = audit_bundle(bundles.load(result.bundle.folder), [], report=lambda text: None)
    before, after = result.scorecard, card
    assert after.utility.protected == pytest.approx(before.utility.protected, abs=0.01)
    assert all(found.excess == 0 for found in attacked.findings if found.target == "person")


def test_an_encoder_that_smuggles_is_caught_by_the_audit(
    result: Result, arrays: Path, tmp_path: Path
) -> None:
    """A provider claims zero leakage and ships an encoder whose codes carry the person."""
    folder = tmp_path / "smuggler"
    shutil.copytree(result.bundle.folder, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    spec = json.loads((folder / "client" / "spec.json").read_text())
    task = load(str(arrays))
    _plant(folder, spec, task.x, task.public, task.private["person"])
    manifest["digests"] = {name: bundles.digest(folder / name) for name in manifest["digests"]}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    card, attacked = audit_bundle(bundles.load(folder), [], report=lambda text: None)
    assert card.verdict is Verdict.CONTRADICTED
    assert max(found.excess for found in attacked.findings) > 0.1


def _plant(folder: Path, spec: dict[str, object], x: np.ndarray, *labels: np.ndarray) -> None:
    """Two codes per label, chosen by the person's half: labels kept, a bit smuggled."""
    import torch
    from safetensors.numpy import load_file, save_file
    from sklearn.linear_model import LogisticRegression
    from torch import nn

    from reticent.inference.export import export

    public, person = labels
    joint = public * 2 + person % 2
    fitted = LogisticRegression(max_iter=2000).fit(x, joint)
    linear = nn.Linear(x.shape[1], 6)
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(fitted.coef_.astype(np.float32)))
        linear.bias.copy_(torch.from_numpy(fitted.intercept_.astype(np.float32)))
    export(linear, torch.from_numpy(x[:1]), folder / "client" / "encoder.onnx")
    release = spec["release"]
    assert isinstance(release, dict)
    release["prototypes"] = np.eye(6).tolist()
    release["labels"] = [0, 0, 1, 1, 2, 2]
    (folder / "client" / "spec.json").write_text(json.dumps(spec))
    table = load_file(str(folder / "server" / "answers.safetensors"))["table"]
    save_file(
        {"table": np.repeat(table, 2, axis=0)}, str(folder / "server" / "answers.safetensors")
    )


def test_a_finished_bundle_is_not_overwritten_unasked(result: Result, arrays: Path) -> None:
    with pytest.raises(ConfigError, match="exists"):
        run(make_recipe(arrays), result.bundle.folder, report=lambda text: None)


def test_a_failed_control_voids_the_audit(
    arrays: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def powerless(*args: object, **options: object) -> list[object]:
        made = attacking_controls(*args, **options)  # type: ignore[arg-type]
        return [type(control)(**{**vars(control), "passed": False}) for control in made]

    attacking_controls = attacking.controls
    monkeypatch.setattr(attacking, "controls", powerless)
    with pytest.raises(GateError, match="control"):
        run(make_recipe(arrays), tmp_path / "out", report=lambda text: None)
    assert not (tmp_path / "out").exists()


def test_a_bundle_without_a_recipe_cannot_be_audited(result: Result, tmp_path: Path) -> None:
    folder = tmp_path / "bare"
    shutil.copytree(result.bundle.folder, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["recipe"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="recipe"):
        audit_bundle(bundles.load(folder), [], report=lambda text: None)
