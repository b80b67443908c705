"""Whether audits flag mechanisms of known epsilon, and only broken ones; bounds beside peers.

200 audits of a Gaussian mechanism (calibrated by Balle & Wang 2018) and of a Laplace one: at most
5 % may be flagged, and with a tenth of the noise at least 95 %. Peers are optional (`pip install
privacy-estimates`); without them their columns are empty.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rows import Row, row
from sklearn.metrics import roc_auc_score, roc_curve

from reticent.audit.epsilon import (
    Confusion,
    best_threshold,
    epsilon_lower_bounds,
    gaussian_mu,
)
from reticent.audit.one_run import audit_procedure
from reticent.audit.rates import roc
from reticent.audit.region_test import sharp_epsilon_lower_bound
from reticent.guarantee import CLIENT, DifferentialPrivacy, Guarantee, Pillar
from reticent.random import seeded

DELTA = 1e-5
PEER = "privacy-estimates 0.1.0"


def rows(*, quick: bool) -> Iterable[Row]:
    """The results; `quick` takes fewer one-run audits."""
    for noise in ("gaussian", "laplace"):
        for epsilon in (0.5, 2.0, 4.0):
            yield from by_thresholds(noise, epsilon)
    for epsilon in (1.0, 4.0):
        yield from by_one_run(epsilon, runs=40 if quick else 200)
    yield from level()
    yield from bounds(slow=not quick)
    yield from curves()


def by_thresholds(
    noise: str, epsilon: float, *, runs: int = 200, size: int = 4000
) -> Iterable[Row]:
    """Audits by a threshold that another run's outputs chose; 4,000 outputs for each neighbour."""
    delta = DELTA if noise == "gaussian" else 0.0
    scale = 1 / gaussian_mu(epsilon, delta) if noise == "gaussian" else 1 / epsilon
    case = f"{noise} mechanism, epsilon {epsilon:g}, {size} + {size} outputs"
    for name, factor in (("as claimed", 1.0), ("a tenth of the noise", 0.1)):
        shown = _shown(noise, factor * scale, delta, runs, size)
        yield row(
            case, f"share flagged, {name}", float((shown > epsilon).mean()), None, "", n=runs,
            mean_bound=round(float(shown.mean()), 3),
        )  # fmt: skip


def by_one_run(epsilon: float, *, runs: int, canaries: int = 1000) -> Iterable[Row]:
    """One-run audits of a Gaussian sum with 1,000 canaries, both bounds judged."""
    claim = Guarantee(
        id="claim",
        pillar=Pillar.TRAINING_DATA,
        adversary=CLIENT,
        strength=DifferentialPrivacy(
            epsilon=epsilon, delta=DELTA, neighboring_relation="add or remove", unit="record"
        ),
        mechanism="Gaussian noise",
        assumptions=(),
        source="",
    )
    for name, factor in (("as claimed", 1.0), ("a tenth of the noise", 0.1)):
        scale = factor / gaussian_mu(epsilon, DELTA)
        flagged, shown = np.zeros(2), np.zeros(2)
        for run in range(runs):
            rng = seeded(run, 7)
            found = audit_procedure(
                lambda included, rng=rng, scale=scale: (
                    included + rng.normal(0, scale, len(included))
                ),
                canaries,
                adversary="client",
                target="canary",
                guarantee=claim,
                gaussian=True,
                seed=run,
            )
            flagged += [finding.contradicts is not None for finding in found]
            shown += [finding.value for finding in found]
        for index, method in enumerate(("any mechanism", "Gaussian")):
            yield row(
                f"one run on a Gaussian sum, epsilon {epsilon:g}, {canaries} canaries",
                f"share flagged, {name}, {method}", float(flagged[index] / runs), None, "", n=runs,
                mean_bound=round(float(shown[index] / runs), 3),
            )  # fmt: skip


def level(*, size: int = 500, epsilon: float = 1.0, runs: int = 2000) -> Iterable[Row]:
    """False alarms where Laplace noise meets its claim exactly, on the same counts."""
    rng = seeded(12, 1)
    hits = rng.binomial(size, 0.5, runs)
    alarms = rng.binomial(size, 0.5 * math.exp(-epsilon), runs)
    ours = epsilon_lower_bounds(hits, size - hits, alarms, size - alarms)
    for method in ("beta", "jeffreys"):
        peer = None
        if _peer() is not None:
            counts = zip(hits, alarms, strict=True)
            theirs = [_peer_bound(int(h), int(a), size, 0.0, method)[0] for h, a in counts]
            peer = float((np.asarray(theirs) > epsilon).mean())
        yield row(
            f"Laplace at its corner, {size} + {size}", "share flagged (at most .05)",
            float((ours > epsilon).mean()), peer, f"{PEER}, {method}", n=runs,
        )  # fmt: skip


def bounds(*, slow: bool) -> Iterable[Row]:
    """The bound of measured attacks, with its CPU time."""
    for hits, alarms, size in ((149, 2, 2000), (990, 10, 1000)):
        case = f"{hits} of {size} members at {alarms} of {size} false alarms"
        counts = Confusion(tp=hits, fn=size - hits, fp=alarms, tn=size - alarms)
        ways = {
            "rectangle": ("beta", lambda c=counts: c.epsilon_lower_bound(delta=DELTA)),
            "sharp, both forms": (
                "joint-beta",
                lambda c=counts: sharp_epsilon_lower_bound(c, delta=DELTA),
            ),
            "sharp, direct form": (
                "joint-beta",
                lambda c=counts: sharp_epsilon_lower_bound(c, delta=DELTA, form="direct"),
            ),
        }
        known: dict[str, tuple[float, float]] = {}
        for name, (method, bound) in ways.items():
            cost = _cpu(bound, 5)
            if _peer() is not None and (slow or method == "beta") and method not in known:
                known[method] = _peer_bound(hits, alarms, size, DELTA, method)
            theirs, peer_cost = known.get(method, (None, None))
            named = f"{PEER}, {method}{' (a credible bound)' if method == 'joint-beta' else ''}"
            yield row(case, f"epsilon shown, {name}", bound(), theirs, named, higher=True)
            peer_ms = None if peer_cost is None else 1e3 * peer_cost
            yield row(case, f"CPU ms, {name}", 1e3 * cost, peer_ms, named)


def curves(size: int = 100_000) -> Iterable[Row]:
    """The ROC curve with area and exact DeLong interval, against a curve and area without."""
    truth = np.arange(size) < size // 2
    scores = seeded(3, 1).normal(truth.astype(float), 1.0)
    ours = _cpu(lambda: roc(scores, truth).auc_ci)
    theirs = _cpu(lambda: (roc_curve(truth, scores), roc_auc_score(truth, scores)))
    yield row(
        f"ROC of {size} records", "CPU ms, curve with area (ours: and its interval)", 1e3 * ours,
        1e3 * theirs, "scikit-learn, no interval",
    )  # fmt: skip


def _shown(noise: str, scale: float, delta: float, runs: int, size: int) -> NDArray[np.float64]:
    """The lower bounds of `runs` audits, (runs,)."""
    rng = seeded(11, 1)
    draw = rng.normal if noise == "gaussian" else rng.laplace
    truth = np.arange(2 * size) < size
    counts = []
    other = truth + draw(0, scale, 2 * size)
    for _ in range(runs):
        own = truth + draw(0, scale, 2 * size)
        accused = own >= best_threshold(other, truth, delta=delta)
        counts.append((int(accused[:size].sum()), int(accused[size:].sum())))
        other = own
    hits, alarms = np.asarray(counts).T
    return epsilon_lower_bounds(hits, size - hits, alarms, size - alarms, delta=delta)


def _cpu(call: Any, repeats: int = 20) -> float:
    call()
    start = time.process_time()
    for _ in range(repeats):
        call()
    return (time.process_time() - start) / repeats


def _peer() -> Any:
    try:
        import privacy_estimates
    except ImportError:
        return None
    return privacy_estimates


def _peer_bound(
    hits: int, alarms: int, size: int, delta: float, method: str
) -> tuple[float, float]:
    """The peer's bound and its CPU seconds."""
    peer = _peer()
    counts = peer.AttackResults(FN=size - hits, FP=alarms, TN=size - alarms, TP=hits)
    start = time.process_time()
    bound = peer.compute_eps_lo(count=counts, delta=delta, alpha=0.05, method=method)
    return float(bound), time.process_time() - start
