"""SYNTHETIC dial: vectors whose public and private labels correlate exactly as much as asked."""

from __future__ import annotations

import math

import numpy as np

from reticent.data.task import Task
from reticent.errors import ConfigError
from reticent.random import seeded

DIMENSIONS = 24


def dial(
    *,
    seed: int = 0,
    public: str = "topic",
    correlation: float = 0.5,
    classes: int = 2,
    persons: int = 120,
    records: int = 50,
) -> Task:
    """SYNTHETIC vectors (n, 24) for the study of how the floor moves with the labels' correlation.

    Each person has one group s, equally many people in each; each record's topic y equals its
    person's s with probability `correlation`, and is drawn uniformly otherwise. `x` is a sum of a
    direction for y, one for s, an offset for the person, and noise, bent by tanh. Public: topic;
    private: group, person. The best guess of the group from a true topic, `dial_floor`, and
    their mutual information, `dial_information`, are known in closed form.
    """
    if public != "topic":
        raise ConfigError(f"Expected public='topic', got public={public!r}.")
    if not 0 <= correlation <= 1 or not 2 <= classes <= 8 or persons % classes or records < 2:
        raise ConfigError(
            "Expected 0 <= correlation <= 1, 2 <= classes <= 8, persons a multiple of classes and "
            f"records >= 2, got correlation={correlation}, classes={classes}, persons={persons}, "
            f"records={records}."
        )
    rng = seeded(seed, 20)
    directions = np.linalg.qr(rng.standard_normal((DIMENSIONS, DIMENSIONS)))[0]
    group_of = rng.permutation(np.arange(persons) % classes)
    person = np.repeat(np.arange(persons), records)
    group = group_of[person]
    follows = rng.uniform(size=len(person)) < correlation
    topic = np.where(follows, group, rng.integers(classes, size=len(person)))
    x = 2.5 * directions[topic] + 2.5 * directions[classes + group]
    x = x + 0.45 * rng.standard_normal((persons, DIMENSIONS))[person]
    x = np.tanh(0.5 * (x + rng.standard_normal(x.shape))) + 0.1 * rng.standard_normal(x.shape)
    return Task(
        name=f"dial-{correlation:g}",
        x=x.astype(np.float32),
        public=topic,
        private={"group": group, "person": person},
        users=person,
        synthetic=True,
        source=f"SYNTHETIC: reticent.data.generators.dial, correlation {correlation}, seed {seed}",
        class_names=tuple(f"topic {index}" for index in range(classes)),
        attribute_names={
            "group": tuple(f"group {index}" for index in range(classes)),
            "person": tuple(f"person {index}" for index in range(persons)),
        },
    )


def dial_floor(correlation: float, classes: int = 2) -> float:
    """How often the best guess of the group from the true topic is right: c + (1 - c) / K."""
    return correlation + (1 - correlation) / classes


def dial_information(correlation: float, classes: int = 2) -> float:
    """I(topic; group) in nats: log K + p log p + (K - 1) q log q, for p the floor, q the rest."""
    hit = dial_floor(correlation, classes)
    miss = (1 - correlation) / classes
    terms = [hit] + [miss] * (classes - 1)
    return math.log(classes) + sum(p * math.log(p) for p in terms if p > 0)
