"""A run whose server sees ciphertexts: claims, findings, files, and an audit of the bundle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from marks import make_recipe

from reticent.data import load
from reticent.errors import ConfigError, UnsupportedError
from reticent.guarantee import Computational, Pillar
from reticent.inference import bundle as bundles
from reticent.inference.deployed import is_sealed, local_pair
from reticent.pipeline import encrypted_traffic
from reticent.pipeline.published import audit_bundle, published
from reticent.pipeline.recipe import Recipe
from reticent.pipeline.run import Result, run
from reticent.pipeline.stage import restored
from reticent.pipeline.tasks import load_task


@pytest.fixture(scope="module")
def sealed(arrays: Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    recipe = make_recipe(
        arrays,
        channel="sealed",
        method="sealed",
        cut="block2",
        options={"goal": "upload", "tolerance": 0.03},
    )
    folder = tmp_path_factory.mktemp("sealed") / "marks"
    return run(recipe, folder, report=lambda text: None)


@pytest.mark.slow
def test_input_and_output_are_claimed_and_attacked(sealed: Result) -> None:
    pillars = sealed.scorecard.pillars
    for pillar in (Pillar.INPUT, Pillar.OUTPUT):
        (claim,) = pillars[pillar].guarantees
        assert isinstance(claim.strength, Computational)
        assert claim.strength.bits == 128
        assert pillars[pillar].findings
        assert not any(found.contradicts for found in pillars[pillar].findings)
    person = next(f for f in pillars[Pillar.INPUT].findings if f.target == "person")
    assert person.excess < 0.1 < person.ceiling - person.floor
    answer, sizes = pillars[Pillar.OUTPUT].findings
    assert (sizes.attack, sizes.excess, sizes.excess_ci) == ("traffic analysis", 0, (0, 0))
    assert answer.value < 0.5  # of three answers, and the undefended server reads each


@pytest.mark.slow
def test_a_client_that_compresses_is_found_out(
    sealed: Result, arrays: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests as long as their answer says: the leak that sizes must not have."""
    recipe = Recipe.from_dict(bundles.load(sealed.bundle.folder).manifest["recipe"])
    task = load_task(recipe)
    stage = restored(recipe, task, "known", sealed.bundle.folder / "server" / "deployed")
    hardened = published(bundles.load(sealed.bundle.folder), stage.answers)
    honest = encrypted_traffic.EncryptedClient.encrypt

    def compressed(self: object, x: np.ndarray) -> bytes:
        scores = hardened.halves.head(torch.from_numpy(x[None])).numpy()
        return honest(self, x) + bytes(int(scores.argmax()))

    class Deaf(encrypted_traffic.EncryptedServer):
        """Answers whatever comes, so that only sizes can tell."""

        def answer(self, request: bytes) -> bytes:
            return bytes(100)

    monkeypatch.setattr(encrypted_traffic.EncryptedClient, "encrypt", compressed)
    monkeypatch.setattr(encrypted_traffic, "EncryptedServer", Deaf)
    (found,) = encrypted_traffic.audit_sizes(stage, hardened, seed=0)
    assert found.value > 0.9
    assert found.against(hardened.guarantees).contradicts == "output/server/sealed"


@pytest.mark.slow
def test_the_served_files_answer_as_the_polynomial_network(sealed: Result, arrays: Path) -> None:
    task = load(str(arrays))
    folder = sealed.bundle.folder
    client, server = local_pair(folder)
    x = task.x[::300]
    got = client.decode(server.answer(client.encode(x)))
    assert (got == task.public[::300]).mean() > 0.8
    manifest = bundles.load(folder).manifest
    assert manifest["channel"] == "sealed"
    assert is_sealed(folder / "server")
    assert not (folder / "server" / "head.onnx").exists()
    assert sealed.scorecard.utility is not None
    assert sealed.scorecard.utility.loss < 0.05


@pytest.mark.slow
def test_the_bundle_is_audited_from_its_files(sealed: Result) -> None:
    card, _ = audit_bundle(bundles.load(sealed.bundle.folder), [], report=lambda text: None)
    assert card.utility is not None
    assert sealed.scorecard.utility is not None
    assert np.isclose(card.utility.protected, sealed.scorecard.utility.protected)
    assert card.pillars[Pillar.OUTPUT].findings


def test_recipes_of_encrypted_channels_say_what_does_not_fit(arrays: Path) -> None:
    made = make_recipe(arrays, channel="ckks", method="sealed", cut="input")
    assert (made.scenario.computed_by, made.scenario.output_seen_by) == ("server", "client")
    for wrong in (
        {"channel": "ckks", "method": "sealed", "cut": "block1"},
        {"channel": "sealed", "method": "adapter_code"},
        {"channel": "split", "method": "sealed"},
        {"channel": "sealed", "method": "sealed", "codes": 4},
        {"channel": "sealed", "method": "sealed", "retrain": True},
    ):
        with pytest.raises(ConfigError, match="inference"):
            make_recipe(arrays, **wrong)
    record = {"task": {"data": "digits"}, "scenario": {"output_seen_by": "client"}}
    with pytest.raises(UnsupportedError, match="sealed"):
        Recipe.from_dict({"name": "x", **record})
    with pytest.raises(ConfigError, match="output_seen_by"):
        Recipe.from_dict(
            {
                "name": "x",
                "task": {"data": "digits"},
                "scenario": {"output_seen_by": "both"},
                "inference": {"channel": "ckks"},
            }
        )
