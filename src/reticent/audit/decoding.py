"""Few-shot decoding judged: how much of the model the client's half already is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from reticent.attacks.extraction.few_shot import FewShotDecoding, decode_few_shot
from reticent.attacks.finding import Finding
from reticent.audit.statistics import bootstrap_balanced
from reticent.errors import DataError
from reticent.guarantee import CLIENT, Guarantee, Pillar

ATTACK = "few-shot decoding"


def few_shot_decoding(
    features: NDArray[np.floating],
    labels: NDArray[np.int64],
    *,
    shots: Sequence[int] = (1, 5),
    repeats: int = 50,
    alphabet: int | None = None,
    users: NDArray[np.int64] | None = None,
    ceiling: float | None = None,
    guarantees: tuple[Guarantee, ...] = (),
    seed: int = 0,
) -> list[Finding]:
    """One MODEL finding per number of labelled records per class.

    Value: balanced accuracy of the public label decoded from the encoder's own output without
    the server, a mean over `repeats` draws of labelled records; floor: chance, 1 / classes.
    The interval resamples users (records where there are none); the spread over draws stands in
    the details. `ceiling` is the whole model's balanced accuracy, if the caller knows it. A number
    of shots for which fewer than two classes have records enough has no finding.
    """
    findings = []
    for count in shots:
        try:
            decoded = decode_few_shot(
                features, labels, shots=count, repeats=repeats, alphabet=alphabet, seed=seed
            )
        except DataError:
            if count == min(shots):
                raise
            continue
        findings.append(_finding(decoded, labels, users, ceiling).against(guarantees))
    return findings


def _finding(
    decoded: FewShotDecoding,
    labels: NDArray[np.int64],
    users: NDArray[np.int64] | None,
    ceiling: float | None,
) -> Finding:
    right = (decoded.decoded == labels[None, :]) & decoded.asked
    times = decoded.asked.sum(axis=0)
    rows = np.flatnonzero(times > 0)
    hits = right.sum(axis=0)[rows] / times[rows]
    floor = 1.0 / decoded.classes
    owners = rows if users is None else users[rows]
    columns = np.stack([hits, np.full(len(rows), floor)], axis=1)
    bootstrap = bootstrap_balanced(columns, labels[rows], owners)
    excess, excess_ci = bootstrap.difference(0, 1)
    by_client = [
        np.mean([row[mask & (labels == label)].mean() for label in np.unique(labels[rows])])
        for row, mask in zip(right, decoded.asked, strict=True)
    ]
    return Finding(
        attack=ATTACK,
        pillar=Pillar.MODEL,
        adversary=CLIENT.name,
        target=f"public label, {decoded.shots} labelled per class",
        metric="balanced accuracy",
        value=float(bootstrap.values[0]),
        ci=bootstrap.interval(0),
        floor=floor,
        excess=excess,
        excess_ci=excess_ci,
        n=len(rows),
        ceiling=ceiling,
        details={
            "shots": decoded.shots,
            "draws of labelled records": len(by_client),
            "spread over draws (5 %, 50 %, 95 %)": [
                float(value) for value in np.quantile(by_client, [0.05, 0.5, 0.95])
            ],
            "interval": "bootstrap over " + ("records" if users is None else "users"),
        },
    )
