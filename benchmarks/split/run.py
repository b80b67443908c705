"""Split inference against its rivals: utility, leakage, cost, on real data and real sockets.

    python benchmarks/split/run.py [--quick] [--case CASE] [--set SET] [--method METHOD] --json

Cases: codes, alphabet, noise, methods, correlation, service, hardening. Prints one JSON object
{"rows": [...]}; `ratio` above 1 means that we are better, null that it is undefined (a leak of
exactly zero).
`--method` keeps the cases codes and methods to some methods. Needs RETICENT_DATA for every case
but `service`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

from rows import Row, row
from sets import SETS, recipe

CASES = ("codes", "alphabet", "noise", "methods", "correlation", "service", "hardening")
CODES = ("adapter_code", "prototype_code")
OURS = (*CODES, "center_noise")
BASELINES = ("center", "nopeek", "adversarial", "vib", "noise")
# Published or prototype figures that the project set out to beat, with their source.
PROTOTYPE_EXCESS_M8, PROTOTYPE_TAU = 0.24, 0.74


def codes(names: list[str], seeds: int, chosen: list[str]) -> Iterator[Row]:
    """One code per answer: utility and client share, over partitions; excess is computed."""
    from reticent.audit.attribute import audit_attributes
    from reticent.pipeline.stage import by_regime, prepare
    from reticent.pipeline.tasks import load_task

    for name in names:
        for method in chosen:
            base, kept, shares, worst, cuts = [], [], [], 0.0, []
            for seed in range(seeds):
                plan = recipe(name, seed=seed, seeds=1, quick=False, method=method)
                task = load_task(plan)
                regime, attributes = next(iter(by_regime(plan, task).items()))
                stage = prepare(plan, task, regime, report=quiet)
                hardened = stage.harden(plan)
                base.append(float(stage.test_outcomes().mean()))
                kept.append(float(stage.test_outcomes(hardened).mean()))
                shares.append(hardened.costs.client_flops_share)
                cuts.append(hardened.cut)
                found = audit_attributes(
                    stage.protected(hardened), attributes=attributes, seeds=(0,)
                )
                worst = max(worst, *(abs(item.excess) for item in found))
            label = f"codes/{name}/{method}"
            loss = float(np.mean(base) - np.mean(kept))
            spread = float(np.std(np.subtract(base, kept), ddof=1)) if seeds > 1 else None
            n = len(stage.records("test"))
            yield row(
                label,
                "utility",
                float(np.mean(kept)),
                float(np.mean(base)),
                "undefended",
                higher=True,
                unit="task metric",
                n=n,
                loss=round(loss, 4),
                loss_sd=spread,
                losses=[round(float(value), 4) for value in np.subtract(base, kept)],
                seeds=seeds,
            )
            yield row(
                label,
                "client share of FLOPs",
                float(np.mean(shares)),
                1.0,
                "whole model on the client",
                unit="share",
                n=seeds,
                cuts=cuts,
            )
            yield row(label, "worst excess, m <= 32", worst, None, "floor", unit="accuracy", n=n)


def alphabet(names: list[str], seeds: int) -> Iterator[Row]:
    """More codes than answers: what utility they buy, what they leak, what is claimed of them."""
    from reticent.audit.attribute import audit_attributes
    from reticent.pipeline.stage import by_regime, prepare
    from reticent.pipeline.tasks import load_task

    for name in names:
        plan = recipe(name, seed=0, seeds=seeds, quick=False, method="adapter_code")
        task = load_task(plan)
        regime, attributes = next(iter(by_regime(plan, task).items()))
        stage = prepare(plan, task, regime, report=quiet)
        base = float(stage.test_outcomes().mean())
        first = stage.harden(plan)
        for times in (1, 2, 4):
            codes_ = times * stage.answers.levels
            hardened = stage.harden(plan, cut=first.cut, codes=codes_)
            label = f"alphabet/{name}/K = {times}C"
            kept = float(stage.test_outcomes(hardened).mean())
            n = len(stage.records("test"))
            yield row(
                label, "utility", kept, base, "undefended", higher=True, unit="task metric", n=n
            )
            claim = hardened.guarantees[0]
            found = audit_attributes(
                stage.protected(hardened), attributes=attributes, seeds=tuple(range(seeds))
            )
            for item in found:
                yield row(
                    label,
                    f"excess on {item.target}, m = {item.requests}",
                    item.excess,
                    claim.allowed_excess(item.requests),
                    "what the claim allows",
                    unit="balanced accuracy",
                    n=item.n,
                    ci=[round(bound, 4) for bound in item.excess_ci],
                    floor=round(item.floor, 4),
                )


def noise(names: list[str], seeds: int) -> Iterator[Row]:
    """Certified noise at an early and a late cut: adaptive excess at m = 8, certified bounds."""
    from reticent.pipeline.attack import attack
    from reticent.pipeline.stage import by_regime, prepare
    from reticent.pipeline.tasks import load_task

    for name in names:
        plan = recipe(name, seed=0, seeds=seeds, quick=False, method="center_noise")
        task = load_task(plan)
        regime, attributes = next(iter(by_regime(plan, task).items()))
        stage = prepare(plan, task, regime, report=quiet)
        for cut in ("auto", "dense1"):
            hardened = stage.harden(plan, cut=cut)
            found = attack(
                stage,
                hardened,
                attributes,
                audit=plan.audit,
                seed=0,
                report=quiet,
                full=False,
                ceilings=(),
            ).findings
            label = f"noise/{name}/{hardened.cut}"
            n = len(stage.records("test"))
            base = float(stage.test_outcomes().mean())
            kept = float(stage.test_outcomes(hardened).mean())
            certificate = hardened.certificate
            assert certificate is not None
            yield row(
                label, "utility", kept, base, "undefended", higher=True, unit="task metric", n=n
            )
            for item in found:
                yield row(
                    label,
                    f"adaptive excess on {item.target}, m = {item.requests}",
                    item.excess,
                    PROTOTYPE_EXCESS_M8 if item.requests == 8 else None,
                    "prototype (another motion set)",
                    unit="balanced accuracy",
                    n=item.n,
                    ci=[round(bound, 4) for bound in item.excess_ci],
                )
            claim = hardened.guarantees[0]
            for m in (1, 8):
                yield row(
                    label,
                    f"certified total variation, worst case, m = {m}",
                    float(claim.allowed_excess(m) or 0.0),
                    PROTOTYPE_TAU,
                    "prototype (average case, m = 1)",
                    unit="total variation",
                    n=certificate.n,
                )


def methods(names: list[str], seeds: int, quick: bool, chosen: list[str]) -> Iterator[Row]:
    """Every method on every set, one attack protocol: the table of the frontier."""
    from reticent.pipeline.compare import compare

    for name in names:
        plan = recipe(name, seed=0, seeds=seeds, quick=quick)
        made = compare(plan, chosen, report=quiet)
        best = next((point for point in made.points if point.method in OURS), None)
        for point in made.points:
            common = {
                "unit": "task metric",
                "n": seeds,
                "parameters": dict(point.parameters),
                "client_flops_share": round(point.client_flops_share, 4),
                "few_shot": {str(k): round(v, 4) for k, v in point.few_shot.items()},
            }
            yield row(
                f"methods/{name}/{point.method}",
                "utility",
                point.utility,
                made.baseline,
                "undefended",
                higher=True,
                **common,
            )
            yield row(
                f"methods/{name}/{point.method}",
                f"worst excess ({point.target}, m = {point.requests})",
                point.excess,
                None if best is None else best.excess,
                "ours" if best is None else f"ours ({best.method})",
                unit="balanced accuracy",
                n=seeds,
                ci=None if point.excess_ci is None else [round(b, 4) for b in point.excess_ci],
            )


def correlation(strengths: tuple[float, ...]) -> Iterator[Row]:
    """How the floor moves when public and private labels correlate: generated and real data."""
    from reticent.data import load
    from reticent.data.generators.dial import dial
    from reticent.data.resample import correlate
    from reticent.pipeline.attack import attack
    from reticent.pipeline.stage import prepare

    census = load("adult", private=["sex"])
    for strength in strengths:
        for label, task, attribute in (
            ("dial (SYNTHETIC)", dial(correlation=strength), "group"),
            ("income and sex", correlate(census, "sex", strength=strength), "sex"),
        ):
            for method in ("adapter_code", "center"):
                plan = recipe("income", seed=0, seeds=1, quick=True, method=method, cut="block1")
                stage = prepare(plan, task, "known", report=quiet)
                hardened = stage.harden(plan)
                found = attack(
                    stage,
                    hardened,
                    [attribute],
                    audit=plan.audit,
                    seed=0,
                    report=quiet,
                    full=False,
                    ceilings=(),
                ).findings[0]
                yield row(
                    f"correlation/{label}/{method}/{strength:g}",
                    f"balanced accuracy on {attribute}, m = 1",
                    found.value,
                    found.floor,
                    "label alone (floor)",
                    unit="balanced accuracy",
                    n=found.n,
                    excess=round(found.excess, 4),
                    ci=[round(bound, 4) for bound in found.excess_ci],
                )


def hardening(names: list[str]) -> Iterator[Row]:
    """Seconds to harden a small convolutional network, one thread."""
    from reticent.pipeline.stage import by_regime, prepare
    from reticent.pipeline.tasks import load_task

    for name in names[:1]:
        for method in ("adapter_code", "prototype_code", "center_noise"):
            plan = recipe(name, seed=0, seeds=1, quick=True, method=method)
            task = load_task(plan)
            regime, _ = next(iter(by_regime(plan, task).items()))
            stage = prepare(plan, task, regime, report=quiet)
            started = time.process_time()
            stage.harden(plan)
            spent = time.process_time() - started
            yield row(
                f"hardening/{name}/{method}",
                "CPU seconds, cut chosen automatically",
                spent,
                300.0,
                "goal",
                unit="s",
                n=len(stage.records("train")),
            )


def service(quick: bool) -> Iterator[Row]:
    """Server CPU against a bare endpoint; latency and bytes of split against plain."""
    from load import cpu_per_request
    from roundtrip import split_against_plain

    for connections in (1, 8):
        measured = cpu_per_request(requests=2_000 if quick else 10_000, connections=connections)
        yield row(
            f"service/table head, {connections} connections",
            "server CPU per request",
            measured["ours_us"],
            measured["bare_us"],
            "bare Starlette V2 endpoint",
            unit="us",
            n=measured["requests"],
            spread=measured["spread"],
        )
    for metric, unit, ours, plain, n in split_against_plain(requests=200 if quick else 1000):
        yield row("service/round trip over TLS", metric, ours, plain, "plain", unit=unit, n=n)


def quiet(text: str) -> None:
    """Progress to standard error: standard output carries the rows alone."""
    print(f"  {text}", file=sys.stderr, flush=True)


def main() -> None:
    """Run the cases asked for and print their rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--case", choices=CASES)
    parser.add_argument("--set", choices=tuple(SETS), action="append")
    parser.add_argument("--method", choices=(*OURS, *BASELINES), action="append")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    names = given.set or list(SETS)
    if given.quick and not given.set:
        names = ["phone activity"]
    seeds = 1 if given.quick else 3
    cases = {
        "codes": lambda: codes(
            names, seeds, [name for name in given.method or CODES if name in CODES]
        ),
        "alphabet": lambda: alphabet(given.set or ["phone activity", "spoken digits"], seeds),
        "noise": lambda: noise(["phone activity"], seeds),
        "methods": lambda: methods(names, seeds, given.quick, given.method or [*OURS, *BASELINES]),
        "correlation": lambda: correlation((0.0, 1.0) if given.quick else (0, 0.25, 0.5, 0.75, 1)),
        "service": lambda: service(given.quick),
        "hardening": lambda: hardening(names),
    }
    rows: list[Row] = []
    for name, case in cases.items():
        if given.case in (None, name):
            for made in case():
                rows.append(made)
                if not given.json:
                    print(json.dumps(made), flush=True)
    if given.json:
        print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main()
