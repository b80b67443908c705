"""Encrypted channels judged: what messages tell the server, and what replies tell the client."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from reticent.attacks.extraction.slots import recovered, repeating, solve_linear, solve_slots
from reticent.attacks.finding import Finding, Interval
from reticent.attacks.traffic import Traffic
from reticent.audit.probe import Probe
from reticent.audit.rates import roc
from reticent.audit.traffic import audit_traffic
from reticent.errors import ConfigError, DataError
from reticent.guarantee import CLIENT, SERVER, Pillar
from reticent.inference.ckks import packing
from reticent.inference.ckks.plan import Plan
from reticent.inference.ckks.server import EncryptedServer
from reticent.random import seeded

RECOVERED = "share of the weights recovered"
SLOWER = 1.05
"""Positive control of times: one class takes this much longer."""
_EITHER_WAY = 0.975
"""The level at which an interval for whichever class is slower errs as a 95 % one for one does."""
ENOUGH = 0.999
"""From this share on a linear model counts as recovered."""

Array = NDArray[np.float64]
Messages = Sequence[bytes]


class Answering(Protocol):
    """A server half."""

    def answer(self, request: bytes) -> bytes:
        """The reply."""


def audit_messages(
    encrypt: Callable[[Array], Messages],
    answer: Callable[[Messages], Messages],
    inputs: Sequence[Array],
    classes: NDArray[np.int64],
    *,
    pillar: Pillar = Pillar.INPUT,
    target: str = "class of the input",
    clock: Callable[[], float] = time.process_time,
    seed: int = 0,
) -> tuple[Finding, ...]:
    """How well the two classes of chosen inputs are told by sizes, by numbers of messages, by time.

    The server reads nothing; it counts and takes the time. Inputs are sent
    in random order, so that a machine that slows down is no leak. Three findings in this order: of
    `audit_traffic` for sizes and counts, where exchanges that look alike have an excess of exactly
    0; for CPU time the rank test over all exchanges, in how much more often one of the slower class
    takes longer than one of the other than the reverse, from 0 to 1. Its ceiling, and positive
    control, is the same times with one class 5 % slower. Times vary: of forty honest servers one
    shows a small excess in time, once. Raises `DataError` for fewer than 40 inputs, and for other
    than two classes.
    """
    values = np.unique(classes)
    if len(inputs) != len(classes) or len(values) != 2:
        raise DataError(
            f"Expected a class per input and two classes, got {len(inputs)} inputs, "
            f"{len(classes)} of {len(values)} classes."
        )
    order = seeded(seed, 351).permutation(len(inputs))
    sizes, counts, seconds = [], [], []
    for row in order:
        sent = encrypt(inputs[row])
        start = clock()
        replies = answer(sent)
        seconds.append(clock() - start)
        sizes.append((sum(map(len, sent)), sum(map(len, replies))))
        counts.append((len(sent), len(replies)))
    found: list[Finding] = []
    for name, pairs in (("sizes", sizes), ("counts", counts)):
        request, reply = np.array(pairs, dtype=np.int64).T
        found += audit_traffic(
            Traffic(request=request, reply=reply),
            classes[order],
            target=f"{target} from {name}",
            adversary=SERVER.name,
            pillar=pillar,
            seed=seed,
        )
    slow = classes[order] == values[1]
    return (*found, _timed(np.array(seconds), slow, pillar, f"{target} from CPU time"))


def _timed(seconds: Array, second: NDArray[np.bool_], pillar: Pillar, target: str) -> Finding:
    """What ranks of times tell of the class, `second` (n,) or the other."""
    value, interval = _slower(seconds, second)
    control, reach = _slower(np.where(second, SLOWER, 1.0) * seconds, second)
    alike = bool((seconds == seconds[0]).all())
    tested = 1.0 if alike else float(stats.mannwhitneyu(seconds[second], seconds[~second]).pvalue)
    return Finding(
        attack="timing",
        pillar=pillar,
        adversary=SERVER.name,
        target=target,
        metric="rank correlation",
        value=value,
        ci=interval,
        floor=0.0,
        excess=value,
        excess_ci=interval,
        n=len(seconds),
        ceiling=None if alike else control,
        details={
            "all exchanges look alike": alike,
            "p-value": tested,
            "median ms": [1e3 * float(np.median(seconds[part])) for part in (~second, second)],
            "positive control": {
                "times": f"one class takes {SLOWER - 1:.0%} longer",
                "value": control,
                "passed": reach[0] > 0,
            },
        },
    )


def _slower(seconds: Array, second: NDArray[np.bool_]) -> tuple[float, Interval]:
    """Cliff's delta of times for the class that is slower, with its interval; 0 where all tie."""
    if (seconds == seconds[0]).all():
        return 0.0, (0.0, 0.0)
    curve = max(roc(seconds, second), roc(-seconds, second), key=lambda made: made.auc)
    low, high = curve.auc_interval(confidence=_EITHER_WAY)
    return 2 * curve.auc - 1, (2 * low - 1, 2 * high - 1)


def audit_replies(
    plan: Plan,
    *,
    serve: Callable[[Plan, bytes], Answering] = EncryptedServer,
    trials: int = 8,
    imaginary: bool = False,
    seed: int = 0,
) -> Finding:
    """How much of the last layer's weights one query gives away, beyond what its outputs do.

    The attacker is a client that knows every weight but the last matrix's, sends one query (twice)
    and solves for the matrix from all slots that repeat. Floor: the same from the slots that are
    outputs, which the function gives away by design. Ceiling: from unmasked slots, computed in
    plain. `imaginary` hides the query in the imaginary part, where a mask may be missing. Over
    `trials` random queries, with a t interval.
    """
    if trials < 3 or (imaginary and len(plan.layers) > 1):
        raise ConfigError(
            f"Expected trials >= 3, and imaginary queries for one matrix only, got {trials=}, "
            f"layers={len(plan.layers)}."
        )
    probe, rng = Probe(plan), seeded(seed, 352)
    server = serve(plan, probe.public_keys)
    matrix, layer = plan.lowered.matrices[-1], plan.layers[-1]
    true = matrix.weight.reshape(-1)
    outputs = layer.outputs[: layer.span]
    bias = np.where(outputs >= 0, matrix.bias[np.maximum(outputs, 0)], 0.0)
    scores = []
    for _ in range(trials):
        x = rng.uniform(-plan.bound, plan.bound, (plan.lowered.matrices[0].weight.shape[1],))
        equations = _equations(plan, x)
        request = probe.encrypt(np.asarray(1j * x if imaginary else x, dtype=np.complex128))
        whole = [probe.slots(server.answer(request)) for _ in range(2)]
        # Biases are real: they are no part of what an imaginary query brings along.
        seen = [
            made.imag if imaginary else made.real - np.resize(bias, made.size) for made in whole
        ]
        first, second = (values[: layer.span] for values in seen)
        told = np.flatnonzero(repeating(first, second))
        given = np.flatnonzero(outputs >= 0)
        plain = equations @ true
        scores.append(
            (
                recovered(true, solve_slots(equations[told], (first + second)[told] / 2)),
                recovered(true, solve_slots(equations[given], plain[given])),
                recovered(true, solve_slots(equations, plain)),
                len(told),
            )
        )
    value, floor, ceiling, told_slots = np.mean(scores, axis=0)
    excess = [score[0] - score[1] for score in scores]
    return Finding(
        attack="partial sums in slots",
        pillar=Pillar.MODEL,
        adversary=CLIENT.name,
        target="imaginary parts" if imaginary else "last matrix",
        metric=RECOVERED,
        value=float(value),
        ci=_interval([score[0] for score in scores]),
        floor=float(floor),
        excess=float(np.mean(excess)),
        excess_ci=_interval(excess),
        n=trials,
        ceiling=float(ceiling),
        details={
            "slots that repeat": float(told_slots),
            "slots that are outputs": int((outputs >= 0).sum()),
            "slots": int(layer.span),
            "ceiling": "unmasked slots, computed in plain",
        },
    )


def audit_rounding(
    ask: Mapping[int, Callable[[Array], Array]],
    *,
    weights: Array,
    bound: float,
    budgets: Sequence[int],
    trials: int = 3,
    seed: int = 0,
) -> tuple[Finding, ...]:
    """What rounding decrypted answers to so many binary places costs who copies a linear model.

    `ask[places]` gives the answers (outputs,) to x (features,); `weights` (outputs, features + 1)
    are the truth. Queries are corners of the box that clients may send. Per precision a finding at
    the largest budget, floor 0 (who asks nothing knows nothing), ceiling that of the finest
    rounding, and in the details the curve and the least budget that recovers 99.9 %.
    """
    width = weights.shape[1]
    if not ask or not budgets or min(budgets) < width:
        raise ConfigError(
            f"Expected budgets of {width} or more, one equation per unknown, got {budgets=}."
        )
    most, rng = max(budgets), seeded(seed, 353)
    curves: dict[int, NDArray[np.float64]] = {}
    for places, answering in ask.items():
        shares = []
        for _ in range(trials):
            points = rng.choice([-bound, bound], size=(most, width - 1))
            answers = np.stack([answering(point) for point in points])
            solved = [solve_linear(points[:m], answers[:m]) for m in sorted(budgets)]
            shares.append([recovered(weights, guess) for guess in solved])
        curves[places] = np.array(shares)
    finest = float(curves[max(curves)][:, -1].mean())
    return tuple(
        _rounded(places, curve, sorted(budgets), finest) for places, curve in curves.items()
    )


def _rounded(
    places: int, curve: NDArray[np.float64], budgets: list[int], ceiling: float
) -> Finding:
    mean, last = curve.mean(axis=0), curve[:, -1]
    reached = [budget for budget, share in zip(budgets, mean, strict=True) if share >= ENOUGH]
    details: dict[str, Any] = {
        "binary places": places,
        "curve": [[budget, float(share)] for budget, share in zip(budgets, mean, strict=True)],
        "queries that recover it": min(reached, default=None),
    }
    return Finding(
        attack="linear model from decrypted answers",
        pillar=Pillar.MODEL,
        adversary=CLIENT.name,
        target=f"answers rounded to {places} places",
        metric=RECOVERED,
        value=float(last.mean()),
        ci=_interval(list(last)),
        floor=0.0,
        excess=float(last.mean()),
        excess_ci=_interval(list(last)),
        n=len(last),
        requests=budgets[-1],
        ceiling=ceiling,
        details=details,
    )


def _equations(plan: Plan, x: Array) -> Array:
    """How each slot of the last layer's span depends on its weights: (span, weights)."""
    hidden = x[None]
    for matrix, square in zip(plan.lowered.matrices, plan.lowered.squares, strict=False):
        hidden = square.run(matrix.run(hidden))
    layer, shape = plan.layers[-1], plan.lowered.matrices[-1].weight.shape
    names = np.arange(1.0, shape[0] * shape[1] + 1).reshape(shape)
    made = np.zeros((layer.span, names.size))
    slots = np.arange(layer.span)
    for columns, turned in zip(layer.columns, packing.diagonals(names, layer), strict=True):
        held = np.where(columns >= 0, hidden[0][np.maximum(columns, 0)], 0.0)
        for rotation, weights in enumerate(turned):
            here = weights[: layer.span].astype(np.int64) - 1
            used = here >= 0
            made[slots[used], here[used]] += np.roll(held, -rotation)[: layer.span][used]
    for step in layer.sums:
        made = made + np.roll(made, -step, axis=0)
    return made


def _interval(values: Sequence[float]) -> tuple[float, float]:
    """A 95 % t interval for the mean of at least two values; a point where they are all alike."""
    made = np.asarray(values, dtype=np.float64)
    half = stats.t.ppf(0.975, len(made) - 1) * made.std(ddof=1) / np.sqrt(len(made))
    return float(made.mean() - half), float(made.mean() + half)
