"""The verbs that do the main job, as a user calls them, on a small task of arrays."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from reticent.cli import app
from reticent.cli.frame import call
from reticent.service.serve import running_command

RECIPE = """
name = "marks"
[task]
data = "{data}"
[model]
name = "mlp"
options = {{ widths = [32, 16] }}
[train]
epochs = 25
[inference]
method = "adapter_code"
cut = "block1"
[audit]
quick = true
seeds = 1
requests = [1, 8]
[gates]
max_excess_leakage = 0.05
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, recipe, and the bundle of `reticent run`."""
    folder = tmp_path_factory.mktemp("verbs")
    rng = np.random.default_rng(0)
    person = np.repeat(np.arange(6), 200)
    public = rng.integers(0, 3, len(person))
    x = rng.normal(0, 0.6, (len(person), 16))
    x[:, :3] += 2.5 * np.eye(3)[public]
    x[:, 8:14] += 2.0 * np.eye(6)[person]
    np.savez(
        folder / "marks.npz", x=x.astype(np.float32), public=public, person=person, user=person
    )
    (folder / "recipe.toml").write_text(RECIPE.format(data=folder / "marks.npz"))
    assert call(app, ["run", str(folder / "recipe.toml"), "--out", str(folder / "b"), "-q"]) == 0
    return folder


def ask(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict[str, object]]:
    """Exit code and the one JSON object of a verb."""
    capsys.readouterr()
    code = call(app, [*map(str, arguments), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_report_prints_the_verdict(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, card = ask(capsys, "report", work / "b")
    assert (code, card["verdict"]) == (0, "holds")


def test_audit_writes_its_own_report_and_leaves_the_bundle(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (work / "b" / "scorecard.json").read_bytes()
    code, card = ask(capsys, "audit", work / "b", "--out", work / "again")
    assert (code, card["verdict"]) == (0, "holds")
    assert (work / "again" / "report.html").stat().st_size > 10_000
    assert (work / "b" / "scorecard.json").read_bytes() == before


def test_a_gate_that_fails_exits_3(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, card = ask(capsys, "audit", work / "b", "--set", "gates.max_client_flops_share=0.0001")
    assert (code, card["verdict"]) == (3, "gate failed")


def test_train_then_harden_then_audit(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = work / "recipe.toml"
    code, trained = ask(capsys, "train", recipe, "--out", work / "model")
    assert code == 0
    assert trained["value"] > 0.9  # type: ignore[operator]
    code, made = ask(
        capsys, "harden", recipe, "--model", work / "model", "--out", work / "unattacked"
    )
    assert code == 0
    guarantees = made["scorecard"]["pillars"]["input"]["guarantees"]  # type: ignore[index]
    assert [entry["status"] for entry in guarantees] == ["not tested"]
    code, card = ask(capsys, "audit", work / "unattacked")
    assert code == 0
    assert card["pillars"]["input"]["guarantees"][0]["status"] == "consistent"  # type: ignore[index]


def test_compare_places_ours_beside_a_baseline(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, made = ask(
        capsys, "compare", work / "recipe.toml",
        "--method", "adapter_code@block1", "--method", "center@block1",
    )  # fmt: skip
    assert code == 0
    ours, baseline = made["points"]  # type: ignore[misc]
    assert ours["excess"] == 0
    assert ours["guaranteed"]
    assert baseline["excess"] > 0.2
    assert not baseline["guaranteed"]


def test_a_client_asks_a_served_bundle_and_sends_one_byte(
    work: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [
        sys.executable, "-m", "reticent.cli", "serve", str(work / "b"),
        "--port", "0", "--out", str(work / "service"),
    ]  # fmt: skip
    np.save(work / "one.npy", np.load(work / "marks.npz")["x"][:1])
    with running_command(command, stderr=work / "log") as (server, process):
        key = next(
            line.split()[-1] for line in (work / "log").read_text().splitlines() if "rk_" in line
        )
        ca = work / "service" / "certificate.pem"
        asked = ("query", server.url, "marks", work / "one.npy", "--ca", ca, "--out", work / "me")
        assert ask(capsys, *asked)[0] == 5
        monkeypatch.setenv("RETICENT_API_KEY", key)
        code, reply = ask(capsys, *asked)
        assert code == 0
        assert reply["sent_bytes"] == 1
        assert reply["odometer"]["nats"] == 0  # type: ignore[index]
        code, refused = ask(capsys, *asked, "--max-bits", "1.6")
        assert code == 4
        assert "Nothing was sent" in refused["error"]["message"]  # type: ignore[index]
        assert ask(capsys, *asked, "--digest", "0" * 64)[0] == 2
    assert process.returncode == 0
    log = (work / "log").read_text()
    assert "127.0.0.1" not in log.split("event", 1)[1]


def test_a_corrupted_bundle_is_refused(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    shutil.copytree(work / "b", tmp_path / "bad")
    graph = tmp_path / "bad" / "client" / "encoder.onnx"
    data = bytearray(graph.read_bytes())
    data[len(data) // 2] ^= 1
    graph.write_bytes(bytes(data))
    code, record = ask(capsys, "serve", tmp_path / "bad")
    assert code == 5
    assert "encoder.onnx" in record["error"]["message"]  # type: ignore[index]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_demo_tells_the_whole_story(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, record = ask(capsys, "demo", "--out", tmp_path / "demo")
    assert code == 0
    assert record["scorecard"]["verdict"] == "holds"  # type: ignore[index]
    seen = "\n".join(record["server_saw"])  # type: ignore[arg-type]
    assert "uint8[5, 1]" in seen
    assert len(set(record["answers"])) >= 4  # type: ignore[arg-type]
