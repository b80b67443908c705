"""SYNTHETIC intrusion: network flow records of generated hosts, some of them under attack."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from reticent.data.task import Kind, Task
from reticent.errors import ConfigError
from reticent.random import seeded

FIELDS = (
    "log duration", "log bytes out", "log bytes in", "log packets out", "log packets in",
    "log flows from host in 2 s", "log flows to port in 2 s", "share rejected", "share same port",
    "share same peer", "failed logins", "hour sine", "hour cosine", "port web", "port mail",
    "port shell", "port file", "port other",
)  # fmt: skip
DAYS = 10
GROUPS = ("office", "server", "sensor", "administration")
ATTACKS = ("scan", "flood", "password guessing", "exfiltration")
# Rows: groups. Columns: log duration, bytes out, bytes in, packets out, packets in, flows, to port.
_HABIT = np.array(
    [
        [1.0, 6.5, 9.0, 2.2, 3.0, 1.0, 0.8],
        [0.2, 9.0, 6.8, 3.0, 2.2, 2.6, 2.4],
        [-0.5, 5.2, 4.6, 1.0, 0.8, 0.6, 0.6],
        [2.2, 7.5, 7.2, 3.2, 3.2, 0.8, 0.6],
    ]
)
# How an attack moves the same seven columns.
_PUSH = np.array(
    [
        [-1.2, -1.8, -2.6, -0.8, -1.2, 1.6, -0.2],
        [-1.0, -0.8, -2.4, 0.4, -1.2, 2.2, 2.2],
        [0.4, -0.6, -1.4, 0.6, 0.4, 1.0, 1.2],
        [1.6, 2.6, -1.0, 1.6, 0.6, 0.0, 0.0],
    ]
)
_PORTS = np.array(
    [
        [0.62, 0.18, 0.02, 0.12, 0.06],
        [0.55, 0.20, 0.05, 0.15, 0.05],
        [0.30, 0.02, 0.03, 0.05, 0.60],
        [0.15, 0.10, 0.50, 0.20, 0.05],
    ]
)
_ATTACK_PORTS = np.array(
    [
        [0.20, 0.20, 0.20, 0.20, 0.20],
        [0.70, 0.10, 0.05, 0.05, 0.10],
        [0.05, 0.15, 0.60, 0.15, 0.05],
        [0.45, 0.15, 0.05, 0.20, 0.15],
    ]
)


def intrusion(
    *,
    seed: int = 0,
    public: str = "anomaly",
    hosts: int = 80,
    flows: int = 100,
    attack_share: float = 0.12,
) -> Task:
    """SYNTHETIC flow records (n, 18), ten days of each host in time order.

    Public: attack (1) or normal (0): `"anomaly"` as an anomaly task, `"attack"` as classification
    into two classes. Private: the host's group, which tells what it is for, and the host. The
    group shapes normal traffic and shows through attacks; the attack's kind isn't a label.
    """
    kinds = {"anomaly": Kind.ANOMALY, "attack": Kind.CLASSIFICATION}
    if public not in kinds:
        raise ConfigError(f"Expected public in {tuple(kinds)}, got public={public!r}.")
    if hosts < len(GROUPS) or flows < 10 or not 0 < attack_share < 1:
        raise ConfigError(
            "Expected hosts >= 4, flows >= 10 and 0 < attack_share < 1, got "
            f"hosts={hosts}, flows={flows}, attack_share={attack_share}."
        )
    rng = seeded(seed, 40)
    group_of = rng.permutation(np.arange(hosts) % len(GROUPS))
    host = np.repeat(np.arange(hosts), flows)
    group = group_of[host]
    attack = rng.uniform(size=len(host)) < attack_share
    kind = rng.integers(len(ATTACKS), size=len(host))
    habit_of_host = 0.5 * rng.standard_normal((hosts, _HABIT.shape[1]))
    volume = _HABIT[group] + habit_of_host[host] + 0.8 * rng.standard_normal((len(host), 7))
    volume += attack[:, None] * _PUSH[kind] * rng.uniform(0.6, 1.4, size=(len(host), 1))
    x = np.hstack([volume, _shares(attack, kind, rng), _hours(group, flows, rng)])
    odds = np.where(attack[:, None], _ATTACK_PORTS[kind], _PORTS[group])
    port = (rng.uniform(size=(len(host), 1)) > np.cumsum(odds, axis=1)[:, :-1]).sum(axis=1)
    return Task(
        name="intrusion",
        x=np.hstack([x, np.eye(5)[port]]).astype(np.float32),
        public=attack.astype(np.int64),
        private={"group": group, "host": host},
        users=host,
        kind=kinds[public],
        synthetic=True,
        source=f"SYNTHETIC: reticent.data.generators.intrusion, seed {seed}",
        class_names=("normal", "attack"),
        attribute_names={
            "group": GROUPS,
            "host": tuple(f"host {index}" for index in range(hosts)),
        },
    )


def _shares(
    attack: NDArray[np.bool_], kind: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Shares rejected, to the same port, to the same peer, and failed logins, (n, 4)."""
    scan, flood, guess = (attack & (kind == index) for index in range(3))
    mean = np.stack(
        [
            0.06 + 0.35 * scan + 0.25 * flood + 0.05 * guess,
            0.60 - 0.35 * scan + 0.25 * flood + 0.20 * guess,
            0.50 - 0.25 * scan + 0.25 * flood + 0.25 * guess,
        ],
        axis=1,
    )
    shares = np.clip(mean + 0.18 * rng.standard_normal(mean.shape), 0.0, 1.0)
    failed = rng.poisson(0.1 + 1.8 * guess)
    return np.hstack([shares, failed[:, None]])


def _hours(group: NDArray[np.int64], flows: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """The time of day as sine and cosine, (n, 2): people work by day, servers and sensors always.

    Rows of one host are ten days in order, so that its early and late records, which a split by
    time parts, cover the same hours.
    """
    people = np.isin(group, (0, 3))
    day = rng.normal(13.0, 3.0, size=len(group))
    hour = np.where(people, day, rng.uniform(0.0, 24.0, size=len(group))) % 24
    day_of_flow = np.tile(np.arange(flows) * DAYS // flows, len(hour) // flows)
    host = np.repeat(np.arange(len(hour) // flows), flows)
    hour = hour[np.lexsort((hour, day_of_flow, host))]
    angle = 2 * np.pi * hour / 24
    return np.stack([np.sin(angle), np.cos(angle)], axis=1)
