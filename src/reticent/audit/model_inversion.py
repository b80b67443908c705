"""Model inversion judged: are the pictures of the class, is the hidden attribute right?

A picture that the target itself is sure of proves nothing: ascent finds noise that does as well.
So a classifier of another family, trained on other records, says what it shows, and the same
judge sees what a guess without the model, and the model's favourite public records, would score.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.svm import SVC
from torch import Tensor, nn

from reticent.attacks.finding import Finding, Interval
from reticent.attacks.inversion.ascent import ConfidenceAscent
from reticent.attacks.inversion.generator import GenerativeInversion
from reticent.attacks.inversion.tables import (
    Imputer,
    Population,
    Sensitive,
    TableInversion,
)
from reticent.attacks.spec import Labelled
from reticent.attacks.target import Victim
from reticent.audit.rebuilt import Prior
from reticent.audit.reconstruction import Reconstruction
from reticent.audit.similarity import psnr, ssim
from reticent.audit.statistics import bootstrap_balanced, clopper_pearson
from reticent.errors import DataError
from reticent.guarantee import CLIENT, Pillar
from reticent.random import seeded

INSIDER = "insider"
_FEWEST = 0.5
_UNSURE = 1e-9
Attacks = Sequence[ConfidenceAscent | GenerativeInversion]
Judge = Callable[[NDArray[np.float32]], NDArray[np.int64]]


def audit_model_inversion(
    victim: Victim,
    public: Labelled,
    private: Labelled,
    *,
    seed: int = 0,
    attacks: Attacks | None = None,
    undefended: Victim | None = None,
    samples: int = 4,
    keep: Callable[[Reconstruction], None] | None = None,
    progress: Callable[[str], None] | None = None,
) -> tuple[Finding, ...]:
    """One finding per attack: how often an independent judge sees the right class in its pictures.

    `private` are records of the target's classes that it was not trained on; they train the judge,
    a support vector machine. `public` is the adversary's: labelled with the same classes where it
    knows some, with numbers from `victim.classes` on where it doesn't. Floor: the judge's verdict
    on the public mean of the class, or of everything. Ceiling: the same attack on `undefended`, or
    on the positive control, a network whose logits are distances to the class means. The unit is
    the class: samples of one class are no new evidence. Raises `DataError` where the judge fails
    on held-out private records, or lacks a class.
    """
    classes = np.arange(victim.classes)
    judge, power = _judge(private, classes, seed)
    means = np.stack([private.x[private.y == label].mean(axis=0) for label in classes])
    prior = Prior.of(public)
    flat_guess = np.stack([prior.guess(int(label)) for label in classes])
    guess: NDArray[np.float32] = flat_guess.reshape(means.shape).astype(np.float32)
    floor = float((judge(guess) == classes).mean())
    favourites = _favourites(victim, public, classes)
    wanted = np.repeat(classes, samples)
    planted = Victim.of_module(_Prototypes(means).eval(), sample=public.x)
    found = []
    for attack in (ConfidenceAscent(), GenerativeInversion()) if attacks is None else attacks:
        name = f"{attack.spec.name}, {attack.objective}"
        if progress is not None:
            progress(f"{name}: {len(wanted)} pictures of {len(classes)} classes")
        images = _invert(attack, victim, public.x, wanted, seed)
        control = _shares(judge(_invert(attack, planted, public.x, wanted, seed)), wanted)
        ceiling = float(control.mean())
        if undefended is not None:
            twin = _invert(attack, undefended, public.x, wanted, seed)
            ceiling = float(_shares(judge(twin), wanted).mean())
        verdicts = judge(images)
        shares = _shares(verdicts, wanted)
        value, ci = float(shares.mean()), _interval(shares)
        wrong = [(verdicts == (wanted + shift) % len(classes)).mean() for shift in classes[1:]]
        found.append(
            Finding(
                attack=name,
                pillar=Pillar.TRAINING_DATA,
                adversary=INSIDER,
                target="class",
                metric="attack accuracy",
                value=value,
                ci=ci,
                floor=floor,
                excess=value - floor,
                excess_ci=(ci[0] - floor, ci[1] - floor),
                n=len(classes),
                ceiling=ceiling,
                details={
                    "samples of each class": samples,
                    "judge's accuracy on held-out records": power,
                    "most confident public record": float((judge(favourites) == classes).mean()),
                    "class mean of private records": float((judge(means) == classes).mean()),
                    "positive control": float(control.mean()),
                    "negative control": float(np.max(wrong)),
                    "power": bool(_interval(control)[0] > floor),
                    **_likeness(images, means[wanted], guess[wanted]),
                },
            )
        )
        if keep is not None:
            first = np.arange(0, len(wanted), samples)[:8]
            keep(
                Reconstruction(
                    rows=first,
                    inputs=means[wanted[first]].astype(np.float32),
                    best=images[first],
                    floor=guess[wanted[first]],
                    method=name,
                )
            )
    return tuple(found)


def _judge(private: Labelled, classes: NDArray[np.int64], seed: int) -> tuple[Judge, float]:
    """A classifier trained on four fifths of the private records, and its accuracy on the rest."""
    if not np.isin(classes, private.y).all():
        raise DataError(
            f"Expected private records of all {len(classes)} classes, got those of "
            f"{np.unique(private.y).tolist()}."
        )
    order = seeded(seed, 173).permutation(len(private))
    cut = len(private) * 4 // 5
    flat = private.x.reshape(len(private), -1)
    model = SVC(C=5.0).fit(flat[order[:cut]], private.y[order[:cut]])
    power = float(model.score(flat[order[cut:]], private.y[order[cut:]]))
    if power < _FEWEST:
        raise DataError(
            f"Expected a judge that knows the classes, got accuracy={power:.2f} on held-out "
            "records. Give more private records."
        )

    def judge(images: NDArray[np.float32]) -> NDArray[np.int64]:
        return np.asarray(model.predict(images.reshape(len(images), -1)), dtype=np.int64)

    return judge, power


def _favourites(
    victim: Victim, public: Labelled, classes: NDArray[np.int64]
) -> NDArray[np.float32]:
    """The public record that the target is surest of, for each class."""
    scores = victim.at_scores().predict_scores(public.x)
    return np.asarray(public.x[scores[:, classes].argmax(axis=0)], dtype=np.float32)


def _invert(
    attack: ConfidenceAscent | GenerativeInversion,
    victim: Victim,
    public: NDArray[np.float32],
    wanted: NDArray[np.int64],
    seed: int,
) -> NDArray[np.float32]:
    target = victim.at_weights()
    return attack.fit(target, public, seed=seed).score(target, wanted)


def _shares(verdicts: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.float64]:
    """The share of each class's pictures that were recognised."""
    return np.array([(verdicts[wanted == label] == label).mean() for label in np.unique(wanted)])


def _interval(shares: NDArray[np.float64]) -> Interval:
    """Clopper-Pearson over classes, a class's share rounded outwards: conservative."""
    total = round(float(shares.sum()), 9)
    low = clopper_pearson(math.floor(total), len(shares))[0]
    return low, clopper_pearson(math.ceil(total), len(shares))[1]


def _likeness(
    images: NDArray[np.float32], means: NDArray[np.floating], guess: NDArray[np.float32]
) -> dict[str, float]:
    """How near the pictures are to the private class means, and how much nearer than the guess."""
    flat, goal, base = (
        part.reshape(len(part), -1).astype(np.float64) for part in (images, means, guess)
    )
    errors, floors = ((flat - goal) ** 2).sum(axis=1), ((base - goal) ** 2).sum(axis=1)
    centred = [part - part.mean(axis=1, keepdims=True) for part in (flat, goal)]
    norms = [np.linalg.norm(part, axis=1) for part in centred]
    alike = (centred[0] * centred[1]).sum(axis=1) / np.maximum(norms[0] * norms[1], 1e-12)
    spread = float(np.ptp(means)) or 1.0
    found = {
        "explained beyond the guess": float(1 - errors.sum() / max(float(floors.sum()), 1e-300)),
        "correlation with the class mean": float(alike.mean()),
        "median PSNR to the class mean": float(
            np.minimum(np.median(psnr(images, means, data_range=spread)), 200.0)
        ),
    }
    if images.ndim == 4:
        found["median SSIM to the class mean"] = float(
            np.median(ssim(images, means, data_range=spread))
        )
    return found


class _Prototypes(nn.Module):
    """The planted leak: logits are minus squared distances to the class means, scaled."""

    means: Tensor

    def __init__(self, means: NDArray[np.floating]) -> None:
        super().__init__()
        flat = torch.from_numpy(means.reshape(len(means), -1).astype(np.float32))
        apart = torch.cdist(flat, flat)
        self.register_buffer("means", flat)
        # The nearest two classes are then five nats apart at either mean.
        self.sharp = nn.Parameter(5.0 / apart[apart > 0].min() ** 2)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (n, ...) to (n, classes)."""
        apart = x.flatten(1)[:, None] - self.means[None]
        return -self.sharp * (apart**2).sum(dim=2)


def audit_table_inversion(
    victim: Victim,
    members: Labelled,
    public: Labelled,
    sensitive: Sensitive,
    *,
    non_members: Labelled | None = None,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> tuple[Finding, ...]:
    """Two findings: a hidden attribute of `members` from the scores, by either prior.

    Value and floor are balanced accuracies on the same people; the floor is imputation without
    the model, from the same public rows with the label among the inputs (Jayaraman and Evans
    2022), so the excess is what the model adds. The gain on `non_members` tells memory from
    plain statistics of the population. Ceiling and positive control: a model that remembers its
    members' rows; negative control: the attribute shuffled.
    """
    truth = sensitive.index(members.x)
    people = Population(public=public, sensitive=sensitive)
    blind = Imputer.fit(public, sensitive, label=True, seed=seed)
    planted = _memory(members, public, sensitive)
    found = []
    for attack in (TableInversion(), TableInversion(prior="imputed")):
        name = f"{attack.spec.name}, {attack.prior} prior"
        if progress is not None:
            progress(f"{name}: {len(members)} people")
        fitted = attack.fit(victim.at_scores(), people, seed=seed)

        def guesses(rows: Labelled, source: Victim, fitted: Any = fitted) -> NDArray[np.int64]:
            return np.asarray(fitted.score(source.at_scores(), rows).argmax(axis=1))

        mine = guesses(members, victim)
        floor = blind.guess(members).argmax(axis=1)
        judged = _against(mine, floor, truth)
        mixed = seeded(seed, 179).permutation(truth)
        details: dict[str, Any] = {
            "values": len(sensitive.values),
            "positive control": _against(guesses(members, planted), floor, truth)["value"],
            "negative control": _against(mine, floor, mixed)["value"],
        }
        if non_members is not None:
            outside = _against(
                guesses(non_members, victim),
                blind.guess(non_members).argmax(axis=1),
                sensitive.index(non_members.x),
            )
            details |= {
                "on non-members": outside["value"],
                "excess on non-members": outside["excess"],
            }
        found.append(
            Finding(
                attack=name,
                pillar=Pillar.TRAINING_DATA,
                adversary=CLIENT.name,
                target="hidden attribute",
                metric="balanced accuracy",
                n=len(members),
                ceiling=details["positive control"],
                details=details,
                **judged,
            )
        )
    return tuple(found)


def _against(
    mine: NDArray[np.int64], floor: NDArray[np.int64], truth: NDArray[np.int64]
) -> Mapping[str, Any]:
    hits = np.stack([mine == truth, floor == truth], axis=1).astype(np.float64)
    boot = bootstrap_balanced(hits, truth, np.arange(len(truth)))
    excess, interval = boot.difference(0, 1)
    return {
        "value": float(boot.values[0]),
        "ci": boot.interval(0),
        "floor": float(boot.values[1]),
        "excess": excess,
        "excess_ci": interval,
    }


def _memory(members: Labelled, public: Labelled, sensitive: Sensitive) -> Victim:
    """The planted leak: sure of each member's label, and of another where the attribute is."""
    rest = sensitive.without(members.x)
    known = {
        part.tobytes(): (row.tobytes(), int(label))
        for part, row, label in zip(rest, members.x, members.y, strict=True)
    }
    classes = max(2, int(max(members.y.max(), public.y.max())) + 1)

    def answer(x: NDArray[Any]) -> NDArray[np.float64]:
        rows = np.ascontiguousarray(x, dtype=np.float32)
        found = np.full((len(rows), classes), 1.0 / classes)
        for place, part in enumerate(sensitive.without(rows)):
            if part.tobytes() not in known:
                continue
            row, label = known[part.tobytes()]
            right = rows[place].tobytes() == row
            found[place] = _UNSURE if right else (1 - _UNSURE) / (classes - 1)
            found[place, label] = 1 - (classes - 1) * _UNSURE if right else _UNSURE
        return found

    return Victim.of_function(answer, sample=members.x)
