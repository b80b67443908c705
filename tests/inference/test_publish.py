"""What is published is what was hardened, and one version names one pair of halves."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from split_specimens import RELEASES, encoder, hardened, noisy, records, spec, task
from torch import Tensor, nn

from reticent.errors import BundleError
from reticent.inference.split import publish as publishing
from reticent.inference.split.client import SplitClient
from reticent.inference.split.publish import publish
from reticent.inference.split.release import Code
from reticent.inference.split.server import load_server

X, Y = records(64)


@pytest.mark.parametrize("name", ["code", "unbounded", "bare"])
def test_the_published_pair_answers_as_the_hardened_model(tmp_path: Path, name: str) -> None:
    made = hardened(RELEASES[name])
    version = publish(tmp_path, made, task(), name="triangle")
    client, server = SplitClient.load(tmp_path / "client"), load_server(tmp_path / "server")
    np.testing.assert_allclose(client.features(X), made.halves.features(X), atol=1e-5)
    request = client.encode(X)
    assert all(spec_.matches(request[spec_.name]) for spec_ in server.inputs)
    reply = server.answer(request)
    if name == "code":
        np.testing.assert_array_equal(reply["scores"], made.halves.predict(X))
    else:
        (sent,) = request.values()
        with torch.no_grad():
            want = made.halves.head(torch.from_numpy(sent)).numpy()
        np.testing.assert_allclose(reply["scores"], want, rtol=1e-4, atol=1e-4)
    assert (client.decode(reply) == Y).mean() > 0.9
    assert client.spec.version == version == json_of(tmp_path / "server")["version"]


def json_of(folder: Path) -> dict[str, str]:
    record: dict[str, str] = json.loads((folder / "spec.json").read_text())
    return record


def test_the_specification_tells_the_client_what_it_needs(tmp_path: Path) -> None:
    publish(tmp_path, hardened(), task(), name="triangle")
    told = SplitClient.load(tmp_path / "client").spec
    assert told.model == "triangle"
    assert told.class_names == ("walk", "sit", "lie")
    assert told.synthetic
    assert told.shape == (4,)


@pytest.mark.parametrize("name", ["code", "noisy"])
def test_the_server_folder_holds_neither_the_encoder_nor_the_prototypes(
    tmp_path: Path, name: str
) -> None:
    publish(tmp_path, hardened(RELEASES[name]), task(), name="triangle")
    server = {path.name for path in (tmp_path / "server").iterdir()}
    assert server == {"spec.json", "answers.safetensors" if name == "code" else "head.onnx"}
    assert set(json_of(tmp_path / "server")) == {"request", "answer", "version"}
    assert {path.name for path in (tmp_path / "client").iterdir()} == {"spec.json", "encoder.onnx"}


def weights_only(module: nn.Module, sample: Tensor, path: Path) -> None:
    """Stands in for the export where only the bytes matter."""
    path.write_bytes(b"".join(value.detach().numpy().tobytes() for value in module.parameters()))


def test_the_version_changes_when_either_half_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "export", weights_only)
    monkeypatch.setattr(publishing, "Graph", lambda path: path)
    monkeypatch.setattr(publishing, "_same_code", lambda *_: None)
    base = hardened()
    assert base.halves.table is not None
    other_table = replace(base, halves=replace(base.halves, table=2 * base.halves.table))
    other_encoder = replace(base, halves=replace(base.halves, encoder=moved(1e-3)))
    other_head = replace(hardened(noisy()), halves=replace(hardened(noisy()).halves, head=turned()))
    everything = [base, other_table, other_encoder, hardened(noisy()), other_head]
    versions = [
        publish(tmp_path / str(index), made, task(), name="triangle")
        for index, made in enumerate(everything)
    ]
    assert len(set(versions)) == len(versions)
    assert publish(tmp_path / "again", base, task(), name="triangle") == versions[0]


def moved(amount: float) -> nn.Module:
    made = encoder()
    with torch.no_grad():
        next(made.parameters()).add_(amount)
    return made


def turned() -> nn.Module:
    made = nn.Linear(2, 3)
    nn.init.constant_(made.weight, 0.5)
    nn.init.zeros_(made.bias)
    return made.eval()


def test_an_export_that_gives_other_codes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = hardened()

    def export_another(module: nn.Module, sample: Tensor, path: Path) -> None:
        export(nn.Sequential(module, nn.Linear(2, 2)).eval(), sample, path)

    export = publishing.export
    monkeypatch.setattr(publishing, "export", export_another)
    torch.manual_seed(0)
    with pytest.raises(BundleError, match="gives other codes"):
        publish(tmp_path, made, task(), name="triangle")


def test_a_code_of_two_per_label_answers_each_with_its_own_row(tmp_path: Path) -> None:
    base = spec().release
    assert isinstance(base, Code)
    twice = Code(
        prototypes=np.concatenate([base.prototypes, base.prototypes + 0.5]),
        labels=np.tile(base.labels, 2),
    )
    made = hardened(twice)
    publish(tmp_path, made, task(), name="triangle")
    client, server = SplitClient.load(tmp_path / "client"), load_server(tmp_path / "server")
    codes = client.encode(X)["code"]
    assert codes.max() > 2
    decoded = client.decode(server.answer({"code": codes}))
    np.testing.assert_array_equal(decoded, twice.labels[codes[:, 0]])
