"""Invented but plausible scorecards of one phone-activity task, to be rendered in tests."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from reticent.attacks.finding import Finding
from reticent.audit.frontier import Point
from reticent.audit.scorecard import (
    Alone,
    Cost,
    Gate,
    Latency,
    Method,
    Replay,
    Scorecard,
    TaskSummary,
    Utility,
    by_pillar,
)
from reticent.guarantee import (
    CLIENT,
    SERVER,
    Adversary,
    DifferentialPrivacy,
    Empirical,
    Guarantee,
    InformationBound,
    Pillar,
)
from reticent.report import Gallery

TASK = TaskSummary(
    name="phone activity",
    title="Phone activity",
    synthetic=False,
    kind="classification",
    records=16_695,
    users=23,
    classes=5,
    public="activity",
    private={"person": 23, "sex": 2, "age band": 3},
    source="figures invented to test the report",
    regimes=("known", "unseen"),
)
ZERO = Guarantee(
    id="input/prototype-code",
    pillar=Pillar.INPUT,
    adversary=SERVER,
    strength=InformationBound(nats=0.0, total_variation=0.0, scope="total", worst_case=True),
    mechanism="prototype code, one of 5 indices",
    assumptions=(
        "the client sends one byte and enforces its alphabet",
        "the answer to each code is fixed before any request",
    ),
    source="data processing: the code is a function of the predicted label",
)
NOISE = Guarantee(
    id="input/center-noise",
    pillar=Pillar.INPUT,
    adversary=SERVER,
    strength=InformationBound(nats=0.006, total_variation=0.05, scope="total"),
    mechanism="centre loss with Gaussian noise, sigma 1",
    assumptions=("fresh noise from a secure source for every request",),
    source="total variation between Gaussians, averaged over the certified population",
)
MODEL = Guarantee(
    id="model/none",
    pillar=Pillar.MODEL,
    adversary=CLIENT,
    strength=Empirical(),
    mechanism="the head stays on the server",
    assumptions=(),
    source="attacks run in this audit",
)
TRAINING = Guarantee(
    id="training/dp-sgd",
    pillar=Pillar.TRAINING_DATA,
    adversary=Adversary(name="anyone", sees="the published encoder", knows="all other records"),
    strength=DifferentialPrivacy(
        epsilon=2.0, delta=1e-5, neighboring_relation="add or remove one", unit="record"
    ),
    mechanism="DP-SGD, noise multiplier 1.1, 20 epochs",
    assumptions=("Poisson sampling", "noise from a secure source"),
    source="Abadi et al. 2016, Alg. 1",
)
# target, regime -> (floor, ceiling) per number of pooled requests
_LEVELS = {
    ("person", "known"): {1: (0.063, 0.333), 8: (0.127, 0.848), 32: (0.210, 0.967)},
    ("sex", "known"): {1: (0.522, 0.861), 8: (0.561, 0.958), 32: (0.584, 0.990)},
    ("sex", "unseen"): {1: (0.512, 0.664), 8: (0.530, 0.742), 32: (0.541, 0.790)},
    ("age band", "unseen"): {1: (0.351, 0.472), 8: (0.372, 0.551), 32: (0.380, 0.584)},
}
# how far the attack gets on the noisy features, above the floor, per number of pooled requests
_LEAKY = {1: 0.058, 8: 0.243, 32: 0.308}
_WEAK = {1: 0.006, 8: 0.021, 32: 0.034}


def _finding(target: str, regime: str, requests: int, excess: float) -> Finding:
    floor, ceiling = _LEVELS[target, regime][requests]
    half = 0.008 + 0.0045 * np.sqrt(requests)
    value = floor + excess
    return Finding(
        attack="count table" if excess <= 0 else "white-box MLP, noise redrawn",
        pillar=Pillar.INPUT,
        adversary="server",
        target=target,
        metric="balanced accuracy",
        value=value,
        ci=(max(0.0, value - half), min(1.0, value + half)),
        floor=floor,
        excess=excess,
        excess_ci=(excess - half, excess + half) if excess > 0 else (0.0, 0.0),
        n=max(92, 3339 // requests),
        requests=requests,
        seeds=3,
        ceiling=ceiling,
        details={"regime": regime},
    )


def _findings(*, leaky: bool) -> list[Finding]:
    found = []
    for (target, regime), levels in _LEVELS.items():
        for requests in levels:
            by = _LEAKY if target == "person" else _WEAK
            found.append(_finding(target, regime, requests, by[requests] if leaky else 0.0))
    return found


def _point(method: str, utility: float, excess: float, cost: float, **more: object) -> Point:
    one, five, alone = more.pop("client", (None, None, None))  # type: ignore[misc]
    few = {} if one is None else {1: one, 5: five}
    return Point(
        method=method,
        utility=utility,
        utility_ci=(utility - 0.012, utility + 0.012),
        excess=excess,
        excess_ci=(excess - 0.03, excess + 0.03) if excess > 0 else (0.0, 0.0),
        target="person",
        requests=32,
        client_flops_share=cost,
        few_shot=few,
        alone=alone,
        **more,  # type: ignore[arg-type]
    )


def _frontier(*, chosen: str, contradicted: bool) -> tuple[Point, ...]:
    points = (
        _point("plain", 0.891, 0.757, 0.0),
        _point("naive split", 0.891, 0.757, 0.73, client=(0.863, 0.877, 0.884)),
        _point("prototype_code", 0.902, 0.0, 0.73, guaranteed=True, client=(0.902, 0.902, 0.884)),
        _point("adapter_code", 0.884, 0.0, 0.149, guaranteed=True, client=(0.884, 0.884, 0.862)),
        _point("center_noise", 0.881, 0.308, 0.73, guaranteed=True, contradicted=contradicted,
               client=(0.903, 0.903, 0.884)),
        _point("center", 0.896, 0.504, 0.73, client=(0.898, 0.900, 0.884)),
        _point("noise", 0.896, 0.605, 0.73, client=(0.872, 0.881, 0.884)),
        _point("nopeek", 0.870, 0.692, 0.73, client=(0.851, 0.862, 0.884)),
        _point("adversarial", 0.877, 0.727, 0.73, client=(0.846, 0.861, 0.884)),
        _point("vib", 0.792, 0.012, 0.73, client=(0.741, 0.774, 0.884)),
        _point("ceb", 0.897, 0.196, 0.73, client=(0.894, 0.896, 0.884)),
    )  # fmt: skip
    return tuple(replace(point, chosen=point.method == chosen) for point in points)


def holds() -> Scorecard:
    """The prototype code: zero excess, two gates passed."""
    membership = Finding(
        attack="RMIA, 32 references",
        pillar=Pillar.TRAINING_DATA,
        adversary="anyone",
        target="membership",
        metric="AUC",
        value=0.531,
        ci=(0.514, 0.548),
        floor=0.5,
        excess=0.031,
        excess_ci=(0.014, 0.048),
        n=4000,
        seeds=8,
        ceiling=0.702,
        details={"tests": TRAINING.id, "max_epsilon": 6.9},
    )
    decoding = Finding(
        attack="few-shot decoding, one label per class",
        pillar=Pillar.MODEL,
        adversary="client",
        target="the head's function",
        metric="agreement",
        value=1.0,
        ci=(0.999, 1.0),
        floor=0.493,
        excess=0.507,
        excess_ci=(0.49, 0.52),
        n=3339,
    )
    return Scorecard(
        task=TASK,
        method=Method(name="prototype_code", parameters={"codes": 5, "cut": 4, "lam": 5.0}),
        utility=Utility(
            metric="accuracy", baseline=0.891, protected=0.902, loss=-0.011, ci=(-0.019, -0.003),
            n=3339,
        ),
        cost=Cost(
            client_flops_share=0.73, client_params_share=0.212, request_bytes=1, reply_bytes=1,
            latency_ms=Latency(plain=1.84, protected=0.36),
        ),
        replay=Replay(
            command="reticent run recipes/phone_activity.toml --seed 0 --out runs/phone",
            versions={"reticent": "0.1.0", "torch": "2.13.0", "numpy": "1.26.4"},
            seeds=(0, 1, 2),
            data_digest="sha256:5b0c9d7e1f3a4b6c8d9e0f1a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5e",
        ),
        pillars=by_pillar(
            (TRAINING, ZERO, MODEL),
            (*_findings(leaky=False), membership, decoding),
            alone=Alone(utility=0.884, few_shot={1: 0.902, 5: 0.902}),
        ),
        gates={
            "max_excess_leakage": Gate.at_most(0.02, 0.0),
            "max_utility_loss": Gate.at_most(0.01, -0.011),
        },
        frontier=_frontier(chosen="prototype_code", contradicted=True),
        notices=("The figures on this page are invented to test the report.",),
    )  # fmt: skip


def contradicted() -> Scorecard:
    """Centre loss with noise, whose claim pooled attackers break; a gate fails as well."""
    card = holds()
    return replace(
        card,
        method=Method(name="center_noise", parameters={"lam": 0.1, "sigma": 1.0, "cut": 4}),
        utility=replace(card.utility, protected=0.881, loss=0.010, ci=(0.002, 0.018)),
        cost=replace(card.cost, request_bytes=512),
        pillars=by_pillar(
            (NOISE,),
            _findings(leaky=True),
            alone=Alone(utility=0.884, few_shot={1: 0.903, 5: 0.903}),
        ),
        gates={"max_excess_leakage": Gate.at_most(0.02, 0.308)},
        frontier=_frontier(chosen="center_noise", contradicted=True),
    )


def audited() -> Scorecard:
    """A finished model under audit: no deployment, no twin, one pillar attacked."""
    card = holds()
    return replace(
        card,
        utility=None,
        cost=None,
        frontier=(),
        gates={},
        pillars=by_pillar((TRAINING,), card.pillars[Pillar.TRAINING_DATA].findings),
        untested={"stored_records": "needs access L5, got L3"},
    )


def gate_failed() -> Scorecard:
    """SYNTHETIC data; nothing contradicted, but utility fell too far."""
    card = holds()
    return replace(
        card,
        task=replace(
            TASK, name="made activity", title="made activity (SYNTHETIC)", synthetic=True, source=""
        ),
        utility=replace(card.utility, protected=0.858, loss=0.033, ci=(0.024, 0.042)),
        gates={
            "max_excess_leakage": Gate.at_most(0.02, 0.0),
            "max_utility_loss": Gate.at_most(0.01, 0.033),
        },
        frontier=(),
    )


def gallery(kind: str = "series", count: int = 6) -> Gallery:
    """Waves, faces of a kind, or vectors: inputs, good and useless reconstructions."""
    rng = np.random.default_rng(7)
    time = np.linspace(0, 1, 128)
    names = ("walking", "turning", "seated", "sitting down", "standing up", "walking")
    if kind == "series":
        beat = rng.uniform(3, 9, (count, 3, 1))
        phase = rng.uniform(0, 6.28, (count, 3, 1))
        inputs = np.sin(6.28 * beat * time + phase) + 0.4 * np.sin(17 * beat * time)
        inputs *= np.linspace(0.4, 1.0, count)[:, None, None]
    elif kind == "image":
        across = np.linspace(-1, 1, 24)
        radius = rng.uniform(0.3, 0.8, (count, 1, 1, 1))
        ring = np.hypot(across[:, None], across[None, :])[None, None]
        inputs = np.exp(-(((ring - radius) / 0.15) ** 2))
    else:
        inputs = rng.normal(size=(count, 14))
    plain = inputs + rng.normal(scale=0.08, size=inputs.shape)
    protected = np.broadcast_to(inputs.mean(axis=0), inputs.shape)
    return Gallery(
        inputs=inputs,
        plain=plain,
        protected=protected,
        captions=names[:count],
        plain_note="error 0.17 of the class mean's",
        protected_note="error 1.00 of the class mean's: nothing but the label",
    )
