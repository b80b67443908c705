"""Slow, independent truths: outcome probabilities of GNMax by quadrature, exact divergences."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import special


def histograms(teachers: int, classes: int) -> Iterator[tuple[int, ...]]:
    """All ways for `teachers` votes to fall on `classes` labels."""
    for cuts in itertools.combinations(range(teachers + classes - 1), classes - 1):
        edges = (-1, *cuts, teachers + classes - 1)
        yield tuple(b - a - 1 for a, b in itertools.pairwise(edges))


def neighbours(counts: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """One vote moved."""
    for a, b in itertools.permutations(range(len(counts)), 2):
        if counts[a]:
            moved = list(counts)
            moved[a] -= 1
            moved[b] += 1
            yield tuple(moved)


def outcome_log_probabilities(counts: tuple[int, ...], sigma: float) -> NDArray[np.float64]:
    """log Pr[label i wins], exactly: the integral of one density times the others' tails."""
    nodes = np.linspace(min(counts) - 14 * sigma, max(counts) + 14 * sigma, 8001)
    z = (nodes[:, None] - np.array(counts)) / sigma
    log_density = -(z**2) / 2 - math.log(sigma * math.sqrt(2 * math.pi))
    log_tails = special.log_ndtr(z)
    log_rest = log_tails.sum(1, keepdims=True) - log_tails
    # The integrand is smooth and vanishes at both ends, so the trapezoid rule converges fast.
    return special.logsumexp(log_density + log_rest, axis=0) + math.log(nodes[1] - nodes[0])


def check_log_probabilities(surplus: float, sigma: float) -> NDArray[np.float64]:
    """log Pr[the check fails], log Pr[it passes]."""
    return special.log_ndtr(np.array([-surplus, surplus]) / sigma)


def renyi(p: NDArray[np.float64], q: NDArray[np.float64], order: float) -> float:
    """D_order(P || Q) from log probabilities, nats."""
    return float(special.logsumexp(order * p + (1 - order) * q) / (order - 1))


def hockey_stick(p: NDArray[np.float64], q: NDArray[np.float64], epsilon: float) -> float:
    """The least delta for which P <= e^epsilon Q + delta on all events."""
    return float(np.maximum(np.exp(p) - np.exp(epsilon + q), 0).sum())
