"""How close each vote was, kept for the analysis after the fact: as private as the votes."""

from __future__ import annotations

import math
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray
from scipy import special

from reticent.errors import DataError
from reticent.training.pate.mechanisms import GNMax, Mechanism
from reticent.training.pate.noise import STEPS

_LATTICE = 1 / STEPS


class PrivateTrace:
    """Margins of labels and checks, in steps of one teacher; hidden, see `PrivateVotes`."""

    __slots__ = ("_checks", "_labels", "classes", "mechanism")

    def __init__(self, mechanism: Mechanism) -> None:
        self.mechanism = mechanism
        self.classes: int | None = None
        self._labels: list[float] = []
        self._checks: list[float] = []

    def add_label(self, counts: NDArray[np.int64]) -> None:
        """Note the votes, shape (classes,), from which a label was drawn."""
        self.classes = len(counts)
        self._labels.append(label_margin(counts, self.mechanism.sigma))

    def add_check(self, surplus: float) -> None:
        """Note by how many votes a check's statistic stood above (or below) its threshold."""
        # One teacher moves it by one vote at most, which is one step.
        self._checks.append(max(0.0, abs(surplus) - _LATTICE))

    def __repr__(self) -> str:
        kind = "labels" if isinstance(self.mechanism, GNMax) else "labels and checks"
        return f"PrivateTrace({kind}, hidden)"

    def __reduce__(self) -> NoReturn:
        raise DataError("Expected a private trace to stay in memory: it can't be pickled.")


def margins_of(trace: PrivateTrace) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Margins of labels and of checks, for `sanitised` alone: private."""
    return np.array(trace._labels), np.array(trace._checks)


def log_disagreement(counts: NDArray[np.int64], sigma: float) -> float:
    """log q, q >= Pr[the released label is not the plurality's] (Papernot et al. 2018, prop. 7).

    The sum over the other labels of erfc(gap / (2 sigma)) / 2, with each gap less one step of the
    noise's lattice: the difference of two lattice draws reaches g with at most the chance that
    the difference of two continuous ones reaches g less a step.
    """
    top = int(np.argmax(counts))
    gaps = np.delete(counts[top] - counts, top) - _LATTICE
    return float(special.logsumexp(special.log_ndtr(-gaps / (math.sqrt(2) * sigma))))


def label_margin(counts: NDArray[np.int64], sigma: float) -> float:
    """The u >= 0 with q = (m - 1) erfc(u / sigma) / 2: half the gap, if all gaps were equal.

    **One teacher moves u by at most 1.** A vote that moves changes each gap to a given label by
    at most 2, which changes that label's term p of q to f(p) = erfc(erfc^-1(2 p) -+ 1 / sigma) / 2.
    For a falling gap f is concave (it is the trade-off curve of a Gaussian shift, turned over), so
    of all terms with one sum the equal ones grow most; for a rising gap f is convex and equal terms
    shrink most. q is the least over all labels taken for i*, so a change of the plurality changes
    nothing in this. (The functions B_U and B_L of Papernot et al. 2018, appendix B.3.)
    """
    q = log_disagreement(counts, sigma) - math.log(len(counts) - 1)
    return max(0.0, float(-special.ndtri_exp(min(q, 0.0)) / math.sqrt(2) * sigma))
