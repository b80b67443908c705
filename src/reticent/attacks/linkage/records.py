"""Linkage by quasi-identifiers: columns that a register and a release have in common.

Sweeney 2002 (k-anonymity, section 2); k-map after Sweeney 2001: how many people of the population
a released row could be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reticent.attacks.release.neighbours import nearest
from reticent.attacks.release.table import Columns, Encoding, equivalence_classes


@dataclass(frozen=True, kw_only=True, eq=False)
class ClassLinks:
    """Classes of equal quasi-identifiers on both sides of a link.

    `released` (r,) is the class of each release row, `targets` (t,) that of each person in the
    register, `candidates` (t,) how many release rows share a person's class (0: none).
    """

    released: NDArray[np.int64]
    targets: NDArray[np.int64]
    candidates: NDArray[np.int64]


def exact_links(release: Columns, register: Columns, names: Sequence[str]) -> ClassLinks:
    """The release rows that each person in the register could be: equal in all columns `names`."""
    encoding = Encoding.of(release, register, names=names)
    rows = encoding.codes(release)
    classes = equivalence_classes(np.concatenate([rows, encoding.codes(register)]))
    released, targets = classes[: len(rows)], classes[len(rows) :]
    sizes = np.bincount(released, minlength=int(classes.max()) + 1)
    return ClassLinks(released=released, targets=targets, candidates=sizes[targets])


def nearest_links(
    release: Columns, register: Columns, names: Sequence[str], *, rng: np.random.Generator
) -> NDArray[np.int64]:
    """The release row (t,) nearest to each person in the register; ties are drawn.

    Serves where values were perturbed, so that no row equals the register's.
    """
    encoding = Encoding.of(release, names=names)
    rows, _gaps = nearest(encoding.points(register), encoding.points(release), 1, rng)
    return np.asarray(rows[:, 0])


def class_sizes(table: Columns, names: Sequence[str]) -> NDArray[np.int64]:
    """How many rows (n,) share each row's quasi-identifiers; k-anonymity's k is the least."""
    classes = equivalence_classes(Encoding.of(table, names=names).codes(table))
    return np.asarray(np.bincount(classes)[classes])


def k_map(release: Columns, population: Columns, names: Sequence[str]) -> NDArray[np.int64]:
    """How many people (r,) of the population share each release row's quasi-identifiers."""
    links = exact_links(population, release, names)
    return links.candidates
