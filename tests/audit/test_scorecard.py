"""The scorecard: what decides the verdict, what a status takes, and what a file must hold."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reticent.attacks.finding import Finding
from reticent.audit.family import could_contradict
from reticent.audit.frontier import Point
from reticent.audit.scorecard import (
    Alone,
    Cost,
    Encryption,
    Gate,
    Latency,
    Method,
    Packing,
    PillarRow,
    Replay,
    Scorecard,
    Status,
    TaskSummary,
    Utility,
    Verdict,
    by_pillar,
)
from reticent.data.task import Task
from reticent.errors import ConfigError
from reticent.guarantee import (
    CLIENT,
    SERVER,
    Attested,
    DifferentialPrivacy,
    Empirical,
    Guarantee,
    InformationBound,
    Pillar,
)


def claim(name: str = "code", strength: Any = None, **changes: Any) -> Guarantee:
    values: dict[str, Any] = {
        "id": name,
        "pillar": Pillar.INPUT,
        "adversary": SERVER,
        "strength": strength or InformationBound(nats=0.1, total_variation=0.05, scope="total"),
        "mechanism": "a mechanism",
        "assumptions": (),
        "source": "a theorem",
    }
    return Guarantee(**(values | changes))


def finding(excess: float = 0.0, *, half: float = 0.01, **changes: Any) -> Finding:
    values: dict[str, Any] = {
        "attack": "count table",
        "pillar": Pillar.INPUT,
        "adversary": "server",
        "target": "person",
        "metric": "balanced accuracy",
        "value": 0.2 + excess,
        "ci": (0.2 + excess - half, 0.2 + excess + half),
        "floor": 0.2,
        "excess": excess,
        "excess_ci": (excess - half, excess + half),
        "n": 1000,
        "ceiling": 0.9,
    }
    return Finding(**(values | changes))


def scorecard(guarantees: Any = (), findings: Any = (), **changes: Any) -> Scorecard:
    values: dict[str, Any] = {
        "task": TaskSummary(
            name="a", title="a", synthetic=False, kind="classification", records=100, users=None,
            classes=3, public="activity", private={"person": 10},
        ),
        "method": Method(name="prototype_code"),
        "utility": Utility(
            metric="accuracy", baseline=0.9, protected=0.89, loss=0.01, ci=(0.0, 0.02), n=500
        ),
        "cost": Cost(
            client_flops_share=0.15, client_params_share=0.1, request_bytes=1, reply_bytes=1
        ),
        "replay": Replay(command="reticent run a.toml", versions={}, seeds=(0,), data_digest="x"),
        "pillars": by_pillar(guarantees, findings),
    }  # fmt: skip
    return Scorecard(**(values | changes))


def full() -> Scorecard:
    return scorecard(
        (claim(), claim("model", Empirical(), pillar=Pillar.MODEL, adversary=CLIENT)),
        (finding(), finding(0.02, requests=8, details={"regime": "known"})),
        pillars=by_pillar(
            (claim(), claim("model", Empirical(), pillar=Pillar.MODEL, adversary=CLIENT)),
            (finding(), finding(0.02, requests=8, details={"regime": "known"})),
            alone=Alone(utility=0.86, few_shot={1: 0.8, 5: 0.85}),
        ),
        cost=Cost(
            client_flops_share=0.15, client_params_share=0.1, request_bytes=1, reply_bytes=1,
            latency_ms=Latency(plain=2.0, protected=0.5),
        ),
        gates={"max_utility_loss": Gate.at_most(0.01, 0.01)},
        frontier=(Point(method="a", utility=0.9, excess=0.0, client_flops_share=0.1),),
        notices=("simulated",),
    )  # fmt: skip


class TestVerdict:
    def test_holds_without_contradiction_or_failed_gate(self) -> None:
        assert scorecard((claim(),), (finding(0.03),)).verdict is Verdict.HOLDS

    def test_lower_end_above_what_is_allowed_contradicts(self) -> None:
        card = scorecard((claim(),), (finding(0.08),))
        assert card.verdict is Verdict.CONTRADICTED
        assert card.contradictions[0].contradicts == "code"

    def test_lower_end_below_what_is_allowed_does_not(self) -> None:
        """The value lies above 0.05, its interval reaches below: not shown."""
        assert scorecard((claim(),), (finding(0.058),)).verdict is Verdict.HOLDS

    def test_one_contradiction_outweighs_a_hundred_passes(self) -> None:
        card = scorecard((claim(),), (*(finding() for _ in range(100)), finding(0.2)))
        assert card.verdict is Verdict.CONTRADICTED

    def test_contradiction_wins_over_failed_gate(self) -> None:
        gates = {"g": Gate.at_most(0.01, 0.5)}
        assert scorecard((claim(),), (finding(0.2),), gates=gates).verdict is Verdict.CONTRADICTED
        assert scorecard((claim(),), (finding(),), gates=gates).verdict is Verdict.GATE_FAILED

    def test_a_measurement_that_is_no_number_passes_no_gate(self) -> None:
        assert not Gate.at_most(0.01, math.nan).passed

    def test_an_unjudged_finding_is_judged_on_arrival(self) -> None:
        """Nobody can hide a contradiction by leaving `contradicts` empty."""
        assert finding(0.2).contradicts is None
        assert scorecard((claim(),), (finding(0.2),)).findings[0].contradicts == "code"

    def test_one_of_forty_findings_just_above_the_claim_is_chance(self) -> None:
        """An interval 0.001 above what is allowed: alone it contradicts, one of forty doesn't."""
        near = finding(0.061)
        assert scorecard((claim(),), (near,)).verdict is Verdict.CONTRADICTED
        crowd = scorecard((claim(),), (near, *(finding() for _ in range(39))))
        assert crowd.verdict is Verdict.HOLDS
        assert crowd.status(claim()) is Status.CONSISTENT
        again = scorecard((claim(),), (replace(near, contradicts="code"), *crowd.findings))
        assert again.verdict is Verdict.HOLDS

    def test_an_explained_variance_contradicts_only_claims_of_zero(self) -> None:
        rebuilt = finding(0.5, metric="explained variance", target="input")
        assert scorecard((claim(),), (rebuilt,)).verdict is Verdict.HOLDS
        nothing = InformationBound(nats=0.0, total_variation=0.0)
        assert scorecard((claim("zero", nothing),), (rebuilt,)).verdict is Verdict.CONTRADICTED

    def test_another_adversary_contradicts_nothing(self) -> None:
        card = scorecard((claim(),), (finding(0.2, adversary="client"),))
        assert card.verdict is Verdict.HOLDS


class TestStatus:
    def test_violated_names_every_claim_that_is_broken(self) -> None:
        tight = InformationBound(nats=0.0, total_variation=0.0)
        claims = (claim("loose"), claim("tight", tight))
        card = scorecard(claims, (finding(0.3),))
        assert [card.status(c) for c in claims] == [Status.VIOLATED, Status.VIOLATED]

    def test_a_claim_that_is_not_broken_stays_consistent_beside_a_broken_one(self) -> None:
        tight = InformationBound(nats=0.0, total_variation=0.0)
        claims = (claim("loose"), claim("tight", tight))
        card = scorecard(claims, (finding(0.03),))
        assert [card.status(c) for c in claims] == [Status.CONSISTENT, Status.VIOLATED]

    def test_without_attack_it_is_not_tested(self) -> None:
        assert scorecard((claim(),)).status(claim()) is Status.NOT_TESTED

    def test_empirical_claims_nothing_that_could_break(self) -> None:
        made = claim("e", Empirical())
        assert scorecard((made,), (finding(0.5),)).status(made) is Status.NOT_APPLICABLE

    def test_an_attestation_is_not_tested_by_an_accuracy(self) -> None:
        made = claim("tee", Attested(measurement="abc"))
        assert scorecard((made,), (finding(),)).status(made) is Status.NOT_TESTED

    @pytest.mark.parametrize(
        "weak",
        [
            finding(ceiling=None),
            finding(ceiling=0.24),
            finding(ceiling=0.30, half=0.09),
        ],
        ids=["no positive control", "ceiling within the claim", "too few samples"],
    )
    def test_a_pass_without_power_is_inconclusive(self, weak: Finding) -> None:
        assert not could_contradict(weak, claim())
        assert scorecard((claim(),), (weak,)).status(claim()) is Status.INCONCLUSIVE

    def test_one_attack_with_power_is_enough(self) -> None:
        card = scorecard((claim(),), (finding(ceiling=None), finding()))
        assert card.status(claim()) is Status.CONSISTENT

    @pytest.mark.parametrize(
        ("details", "status"),
        [
            ({}, Status.NOT_TESTED),
            ({"tests": "dp"}, Status.INCONCLUSIVE),
            ({"tests": "dp", "max_epsilon": 1.5}, Status.INCONCLUSIVE),
            ({"tests": "dp", "max_epsilon": 6.9}, Status.CONSISTENT),
        ],
    )
    def test_privacy_loss_needs_a_test_that_could_certify_more(
        self, details: dict[str, Any], status: Status
    ) -> None:
        strength = DifferentialPrivacy(
            epsilon=2.0, delta=1e-5, neighboring_relation="add", unit="record"
        )
        made = claim("dp", strength)
        assert scorecard((made,), (finding(details=details),)).status(made) is status

    def test_a_privacy_audit_contradicts_by_naming_its_claim(self) -> None:
        strength = DifferentialPrivacy(
            epsilon=2.0, delta=1e-5, neighboring_relation="add", unit="record"
        )
        card = scorecard((claim("dp", strength),), (finding(contradicts="dp"),))
        assert card.verdict is Verdict.CONTRADICTED
        assert card.status(card.guarantees[0]) is Status.VIOLATED


class TestRows:
    def test_all_four_pillars_are_always_there(self) -> None:
        card = scorecard(pillars={Pillar.INPUT: PillarRow()})
        assert list(card.pillars) == list(Pillar)
        assert list(card.to_json()["pillars"]) == ["training data", "input", "output", "model"]

    def test_the_strongest_is_the_contradiction_then_the_worst_excess(self) -> None:
        card = scorecard((), (finding(0.01), finding(0.3, target="sex")))
        assert card.strongest(Pillar.INPUT) == finding(0.3, target="sex")
        assert card.strongest(Pillar.OUTPUT) is None
        loose = InformationBound(nats=9.0, total_variation=1.0, scope="total")
        zero = InformationBound(nats=0.0, total_variation=0.0)
        client = replace(CLIENT, name="other")
        claims = (claim("loose", loose), claim("zero", zero, adversary=client))
        small = finding(0.05, adversary="other")
        found = scorecard(claims, (finding(0.3), small)).strongest(Pillar.INPUT)
        assert found == replace(small, contradicts="zero")

    def test_other_scales_never_outrank_an_accuracy(self) -> None:
        card = scorecard((), (finding(0.01), finding(0.9, metric="explained variance")))
        assert card.strongest(Pillar.INPUT) == finding(0.01)

    def test_misplaced_finding_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="pillar 'output'"):
            scorecard(pillars={Pillar.OUTPUT: PillarRow(findings=(finding(),))})

    def test_alone_belongs_to_the_model(self) -> None:
        with pytest.raises(ConfigError, match="under pillar 'model'"):
            scorecard(pillars={Pillar.INPUT: PillarRow(alone=Alone())})

    def test_doubled_ids_are_refused(self) -> None:
        with pytest.raises(ConfigError, match="unique guarantee ids, got id='code'"):
            scorecard((claim(), claim()))

    def test_a_contradiction_of_nothing_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="contradicts='ghost'"):
            scorecard((claim(),), (finding(contradicts="ghost"),))

    def test_an_interval_upside_down_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="excess_ci"):
            scorecard((), (finding(excess_ci=(0.2, 0.1)),))

    def test_a_number_that_is_none_is_refused_with_its_place(self) -> None:
        with pytest.raises(ConfigError, match=r"scorecard\.cost\.client_flops_share, got nan"):
            scorecard(
                cost=Cost(
                    client_flops_share=math.nan,
                    client_params_share=0,
                    request_bytes=1,
                    reply_bytes=1,
                )
            )

    def test_its_point_carries_the_worst_attack_and_the_price(self) -> None:
        made = full().point()
        assert (made.excess, made.requests, made.few_shot) == (0.02, 8, {1: 0.8, 5: 0.85})
        assert made.guaranteed
        assert not made.contradicted

    def test_an_error_metric_enters_the_frontier_negated(self) -> None:
        error = Utility(metric="RMSE", baseline=10.0, protected=12.0, loss=2.0, ci=(1, 3), n=9)
        assert scorecard((), (finding(),), utility=error).point().utility == -12.0

    def test_without_attack_there_is_no_point(self) -> None:
        with pytest.raises(ConfigError, match="Run the audit first"):
            scorecard().point()

    def test_summary_of_a_task_counts(self) -> None:
        task = Task(
            name="t", x=np.zeros((6, 2), np.float32), public=np.array([0, 1, 2, 0, 1, 2]),
            private={"sex": np.array([0, 1, 0, 1, 0, 1])}, users=np.array([7, 7, 8, 8, 9, 9]),
            synthetic=True,
        )  # fmt: skip
        made = TaskSummary.of(task, public="activity", regimes=("known",))
        assert (made.records, made.users, made.classes, made.private) == (6, 3, 3, {"sex": 2})
        assert made.title == "t (SYNTHETIC)"


class TestFile:
    def test_json_restores_everything(self) -> None:
        assert Scorecard.from_json(json.loads(json.dumps(full().to_json()))) == full()

    def test_keys_are_those_of_the_contract(self) -> None:
        record = full().to_json()
        assert record["schema"] == 1
        assert set(record) >= {"task", "utility", "cost", "pillars", "verdict"}
        assert set(record["utility"]) >= {"metric", "baseline", "protected", "loss", "ci"}
        assert set(record["cost"]) == {
            "client_flops_share",
            "client_params_share",
            "request_bytes",
            "reply_bytes",
            "latency_ms",
        }
        assert set(record["cost"]["latency_ms"]) == {"plain", "protected"}
        assert set(record["pillars"]["input"]["findings"][0]) >= {
            "attack", "adversary", "target", "metric", "value", "ci", "floor", "ceiling",
            "excess", "n", "contradicts",
        }  # fmt: skip
        assert record["pillars"]["input"]["guarantees"][0]["status"] == "consistent"
        assert record["pillars"]["model"]["alone"]["few_shot"] == {"1": 0.8, "5": 0.85}

    def test_what_encryption_costs_is_restored(self) -> None:
        packing = Packing(
            packing="single", rotations=10, key_bytes=9, upload_bytes=8, reply_bytes=7,
            server_ms=6.5,
        )  # fmt: skip
        other = replace(packing, packing="several")
        made = Encryption(levels=4, ring=16384, modulus_bits=334, chosen=packing, others=(other,))
        card = full()
        card = replace(card, cost=replace(card.cost, encryption=made))
        record = json.loads(json.dumps(card.to_json()))
        assert record["cost"]["encryption"]["others"][0]["packing"] == "several"
        assert Scorecard.from_json(record) == card

    def test_latency_that_was_not_measured_keeps_its_keys(self) -> None:
        record = scorecard().to_json()
        assert record["cost"]["latency_ms"] == {"plain": None, "protected": None}
        assert Scorecard.from_json(record).cost.latency_ms is None

    def test_fields_of_later_versions_are_left_aside(self) -> None:
        record = full().to_json() | {"novelty": 1}
        record["task"]["novelty"] = 2
        assert Scorecard.from_json(record) == full()

    def test_a_finished_model_has_neither_utility_nor_cost(self) -> None:
        card = scorecard(utility=None, cost=None, untested={"traffic": "no transcript"})
        again = Scorecard.from_json(json.loads(json.dumps(card.to_json())))
        assert (again.utility, again.cost) == (None, None)
        assert again.untested == {"traffic": "no transcript"}
        with pytest.raises(ConfigError, match="place on a frontier"):
            again.point()

    @pytest.mark.parametrize("schema", [0, 2, "1", None])
    def test_another_schema_is_refused(self, schema: Any) -> None:
        with pytest.raises(ConfigError, match=f"schema 1, got schema={schema!r}"):
            Scorecard.from_json(full().to_json() | {"schema": schema})

    def test_a_verdict_that_was_edited_is_refused(self) -> None:
        record = scorecard((claim(),), (finding(0.2),)).to_json()
        with pytest.raises(ConfigError, match="changed after the audit"):
            Scorecard.from_json(record | {"verdict": "holds"})

    def test_removing_the_contradiction_mark_does_not_help(self) -> None:
        record = scorecard((claim(),), (finding(0.2),)).to_json() | {"verdict": "holds"}
        record["pillars"]["input"]["findings"][0]["contradicts"] = None
        with pytest.raises(ConfigError, match="Expected verdict='contradicted'"):
            Scorecard.from_json(record)

    @pytest.mark.parametrize(
        ("path", "value", "message"),
        [
            (("task", "records"), "many", r"task\.records"),
            (("utility", "ci"), [0.1], r"utility\.ci"),
            (("utility",), [0.9], "'utility'"),
            (("cost",), "cheap", "'cost'"),
            (("gates", "g"), {"limit": 1}, r"gates\.g"),
            (("replay", "seeds"), ["x"], r"replay\.seeds\.0"),
            (("pillars", "input", "findings"), [{"attack": "a"}], "pillar 'input'"),
            (("pillars", "input", "guarantees"), None, "pillar 'input'"),
        ],
    )
    def test_a_broken_section_is_named(self, path: Any, value: Any, message: str) -> None:
        record = json.loads(json.dumps(full().to_json()))
        part = record
        for name in path[:-1]:
            part = part[name]
        part[path[-1]] = value
        with pytest.raises(ConfigError, match=message):
            Scorecard.from_json(record)

    def test_a_missing_pillar_is_refused(self) -> None:
        record = full().to_json()
        del record["pillars"]["output"]
        with pytest.raises(ConfigError, match="exactly the pillars"):
            Scorecard.from_json(record)

    def test_write_and_read(self, tmp_path: Path) -> None:
        full().write(tmp_path / "scorecard.json")
        assert Scorecard.read(tmp_path / "scorecard.json") == full()
        assert [path.name for path in tmp_path.iterdir()] == ["scorecard.json"]

    def test_numpy_numbers_are_written_as_numbers(self, tmp_path: Path) -> None:
        card = scorecard((), (finding(details={"by seed": np.array([1.0, 2.0], np.float32)}),))
        card.write(tmp_path / "s.json")
        read = Scorecard.read(tmp_path / "s.json")
        assert read.findings[0].details["by seed"] == [1.0, 2.0]

    def test_a_failed_write_leaves_the_old_file(self, tmp_path: Path) -> None:
        path = tmp_path / "scorecard.json"
        full().write(path)
        before = path.read_bytes()
        unwritable = scorecard(method=Method(name="m", parameters={"net": object()}))
        with pytest.raises(TypeError, match="object"):
            unwritable.write(path)
        assert path.read_bytes() == before
        assert len(list(tmp_path.iterdir())) == 1

    @pytest.mark.parametrize("text", ["", "{", "[]", '"holds"'])
    def test_a_file_that_is_no_scorecard_is_refused(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "s.json").write_text(text)
        with pytest.raises(ConfigError, match="scorecard"):
            Scorecard.read(tmp_path / "s.json")

    def test_no_file_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"'none\.json'"):
            Scorecard.read(tmp_path / "none.json")
