"""Hardening: a deployed classifier in, two halves with their guarantees and costs out."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from reticent.data.answers import Answers, utility
from reticent.data.task import Records
from reticent.errors import ConfigError
from reticent.guarantee import SERVER, Empirical, Guarantee, InformationBound, Pillar
from reticent.inference.split import finetuned, frozen, prototype
from reticent.inference.split.certificate import Certificate, certify
from reticent.inference.split.halves import Halves
from reticent.inference.split.problem import Problem
from reticent.inference.split.release import Code, Noisy
from reticent.models.cut import CutPoint, cut_points
from reticent.training.plain import Progress, forward


@dataclass(frozen=True, kw_only=True)
class Method:
    """A way to harden: what runs, what it needs, where it comes from."""

    name: str
    run: Callable[[Problem], Halves]
    source: str
    retrains: bool
    sends_codes: bool = False
    options: tuple[str, ...] = ()
    needs_private: bool = False
    baseline: bool = True


METHODS: Mapping[str, Method] = {
    method.name: method
    for method in (
        Method(
            name="prototype_code",
            options=("neck", "width", "hidden", "labels", "pull"),
            run=prototype.prototype_code,
            source="center loss (Wen et al. 2016) with a one-code-per-label quantiser",
            retrains=True,
            sends_codes=True,
            baseline=False,
        ),
        Method(
            name="adapter_code",
            options=("neck", "width", "hidden", "labels"),
            run=prototype.adapter_code,
            source="distilled early exit (Hinton et al. 2015) with a one-code-per-label quantiser",
            retrains=False,
            sends_codes=True,
            baseline=False,
        ),
        Method(
            name="center_noise",
            options=(
                "total_variation",
                "requests",
                "sigma",
                "separation",
                "radius",
                "pull",
                "neck",
                "width",
                "hidden",
            ),
            run=prototype.center_noise,
            source="center loss (Wen et al. 2016) as the divergence bound of a Gaussian channel",
            retrains=True,
            baseline=False,
        ),
        Method(
            name="center",
            options=("weight", "distance", "centers", "sigma"),
            run=finetuned.center,
            source="Wen et al. 2016",
            retrains=True,
        ),
        Method(
            name="ceb", options=("weight",), run=finetuned.ceb, source="Fischer 2020", retrains=True
        ),
        Method(
            name="vib",
            options=("weight",),
            run=finetuned.vib,
            source="Alemi et al. 2017",
            retrains=True,
        ),
        Method(
            name="noise",
            options=("sigma",),
            run=finetuned.noise,
            source="Osia et al. 2017",
            retrains=True,
        ),
        Method(
            name="supcon",
            options=("weight",),
            run=finetuned.supcon,
            source="Khosla et al. 2020",
            retrains=True,
        ),
        Method(
            name="siamese",
            options=("weight", "sigma"),
            run=finetuned.siamese,
            source="Osia et al. 2017",
            retrains=True,
        ),
        Method(
            name="nopeek",
            options=("weight",),
            run=finetuned.nopeek,
            source="Vepakomma et al. 2020",
            retrains=True,
        ),
        Method(
            name="adversarial",
            options=("weight",),
            run=finetuned.adversarial,
            source="Roy & Boddeti 2019",
            retrains=True,
            needs_private=True,
        ),
        Method(
            name="shredder",
            options=("weight",),
            run=frozen.shredder,
            source="Mireshghallah et al. 2020",
            retrains=False,
        ),
        Method(
            name="nullspace",
            options=("tolerance",),
            run=frozen.nullspace,
            source="Samragh et al. 2021",
            retrains=False,
        ),
    )
}


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What the client pays: shares of the deployed model's FLOPs and parameters, bytes."""

    client_flops_share: float
    client_params_share: float
    request_bytes: int
    reply_bytes: int


@dataclass(frozen=True, kw_only=True)
class Hardened:
    """A hardened deployment: halves, guarantees, costs, and utility on the validation part."""

    method: str
    cut: str
    halves: Halves
    guarantees: tuple[Guarantee, ...]
    costs: Costs
    validation_utility: float
    certificate: Certificate | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Method and cut in one word for tables."""
        return f"{self.method}@{self.cut}"


def harden(
    model: nn.Module,
    *,
    train: Records,
    validation: Records,
    answers: Answers,
    method: str = "adapter_code",
    cut: str = "auto",
    codes: int | None = None,
    retrain: bool | None = None,
    max_utility_loss: float = 0.01,
    max_client_share: float = 0.25,
    epochs: int = 8,
    learning_rate: float = 1e-3,
    batch_size: int = 64,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Hardened:
    """Fine-tune or adapt `model`, already trained, so that what leaves the client is harmless.

    `cut="auto"` takes the earliest cut whose loss of utility on the validation part stays within
    `max_utility_loss`, or, where none does, the one that loses least. `codes` above the number of
    classes opts into leaking log(codes / classes) nats beyond the label. Raises `ConfigError` for
    unknown names and impossible combinations.
    """
    if method not in METHODS:
        near = difflib.get_close_matches(method, METHODS, n=3) or sorted(METHODS)
        raise ConfigError(f"Expected method among {near}, got method={method!r}.")
    if codes is not None and not (codes >= 2 and METHODS[method].sends_codes):
        raise ConfigError(
            f"Expected codes={codes} to be 2 or more and the method to send codes, got "
            f"method={method!r}. Use adapter_code or prototype_code, or leave codes out."
        )
    for name in options or {}:
        if name not in METHODS[method].options:
            raise ConfigError(
                f"Method {method!r} takes the options {list(METHODS[method].options)}, got "
                f"{name!r}."
            )
    torch.manual_seed(seed)
    problem = Problem(
        model=model.eval(),
        cut=cut,
        train=train,
        validation=validation,
        answers=answers,
        seed=seed,
        codes=codes,
        retrain=METHODS[method].retrains if retrain is None else retrain,
        max_client_share=max_client_share,
        epochs=epochs,
        learning_rate=learning_rate,
        batch_size=batch_size,
        options=dict(options or {}),
        progress=progress,
    )
    if cut != "auto":
        return _at(problem, method)
    base = _base_utility(problem)
    best: Hardened | None = None
    for point in candidate_cuts(model, train, from_input=not METHODS[method].baseline):
        made = _at(replace(problem, cut=point.name), method)
        if best is None or made.validation_utility > best.validation_utility:
            best = made
        if base - made.validation_utility <= max_utility_loss:
            return made
    assert best is not None
    return best


def suggest_cut(
    model: nn.Module, *, train: Records, method: str = "adapter_code", **settings: Any
) -> list[tuple[CutPoint, Hardened]]:
    """`method` at every candidate cut, early to late: the raw material of the frontier."""
    return [
        (point, harden(model, train=train, method=method, cut=point.name, **settings))
        for point in candidate_cuts(
            model, train, from_input=method in METHODS and not METHODS[method].baseline
        )
    ]


def candidate_cuts(model: nn.Module, train: Records, *, from_input: bool = False) -> list[CutPoint]:
    """Cuts worth trying: those after which the client has done some work, at most eight.

    `from_input` puts a cut before any work in front, where the features are a vector: an adapter
    there is a small student of the whole model, which is all that a table needs.
    """
    points = cut_points(model, torch.from_numpy(train.x[:1]))
    useful = [point for point in points if point.flops_share > 0]
    if not useful:
        raise ConfigError("The model has no cut after its first layer: give it two layers or more.")
    if len(useful) > 8:
        places = np.unique(np.linspace(0, len(useful) - 1, 8).round().astype(int))
        useful = [useful[int(place)] for place in places]
    idle = [point for point in points if point.flops_share == 0 and len(point.feature_shape) == 1]
    return [*idle[-1:], *useful] if from_input else useful


def _base_utility(problem: Problem) -> float:
    outputs = forward(problem.teacher(), torch.from_numpy(problem.validation.x)).numpy()
    return utility(problem.answers.kind, outputs, problem.validation.public)


def _at(problem: Problem, method: str) -> Hardened:
    halves = METHODS[method].run(problem)
    certificate = _certificate(halves, problem.validation)
    return Hardened(
        method=method,
        cut=problem.cut,
        halves=halves,
        guarantees=guarantees(halves, method, certificate),
        costs=_costs(halves, problem),
        validation_utility=utility(
            problem.answers.kind,
            halves.predict(problem.validation.x, seed=problem.seed),
            problem.validation.public,
        ),
        certificate=certificate,
        options=problem.options,
    )


def _certificate(halves: Halves, held_out: Records) -> Certificate | None:
    release = halves.release
    if (
        not isinstance(release, Noisy)
        or release.prototypes is None
        or release.scale.size != 1
        or release.shape != "gaussian"
    ):
        return None
    return certify(halves.features(held_out.x), release, attributes=held_out.private)


def guarantees(
    halves: Halves, method: str, certificate: Certificate | None
) -> tuple[Guarantee, ...]:
    """What the release lets us claim, per pillar; nothing is claimed that it doesn't force."""
    release, source = halves.release, METHODS[method].source
    if isinstance(release, Code):
        return (_code_guarantee(release, method, source),)
    if certificate is not None:
        return (_noise_guarantee(halves, certificate, method, source),)
    return (
        Guarantee(
            id=f"input/server/{method}",
            pillar=Pillar.INPUT,
            adversary=SERVER,
            strength=Empirical(),
            mechanism=method,
            assumptions=("only the attacks that were run, at the sizes that were run",),
            source=source,
        ),
    )


def _code_guarantee(code: Code, method: str, source: str) -> Guarantee:
    per_label = code.codes_per_label
    return Guarantee(
        id=f"input/server/{method}",
        pillar=Pillar.INPUT,
        adversary=SERVER,
        strength=InformationBound(
            nats=math.log(per_label),
            total_variation=1 - 1 / per_label,
            scope="total" if per_label == 1 else "per query",
            worst_case=True,
        ),
        mechanism=f"{method}, {code.alphabet} codes for {len(np.unique(code.labels))} answers",
        assumptions=(
            "the client enforces the alphabet of its codes",
            "relative to the answer itself, which the server learns, as the client's own half "
            "gives it: that it is the honest one, an audit with labels of one's own has to check",
            "the adversary sees codes, not when or how often they are sent",
        ),
        source=source,
    )


def _noise_guarantee(
    halves: Halves, certificate: Certificate, method: str, source: str
) -> Guarantee:
    release = halves.release
    assert isinstance(release, Noisy)
    bounded = release.radius is not None
    strength = InformationBound(
        nats=certificate.worst_nats if bounded else certificate.nats,
        total_variation=certificate.worst_tau if bounded else certificate.tau_limit,
        worst_case=bounded,
        sigmas=release.radius / release.sigma if release.radius is not None else None,
    )
    assumptions: tuple[str, ...] = (
        "the client draws fresh Gaussian noise from a secure source for every request",
        "relative to the label that the client's own half computes",
        "the adversary sees features, not when or how often they are sent",
        "exact up to 2**-33 of total variation per coordinate and request, for float64 noise",
    )
    if not bounded:
        assumptions += (
            f"average over the certified population, {certificate.confidence:.0%} confidence, "
            f"n = {certificate.n} records taken as independent of each other; hardening trained "
            "on none of them, but the deployed model's best epoch and an automatic cut are chosen "
            "on them; nats are a plug-in mean without a limit",
        )
    return Guarantee(
        id=f"input/server/{method}",
        pillar=Pillar.INPUT,
        adversary=SERVER,
        strength=strength,
        mechanism=f"{method}, sigma {release.sigma:g} absolute",
        assumptions=assumptions,
        source=source,
    )


def _costs(halves: Halves, problem: Problem) -> Costs:
    release = halves.release
    size = release.spec.shape[1] or 1
    return Costs(
        client_flops_share=problem.flops_share(halves.encoder),
        client_params_share=problem.params_share(halves.encoder),
        request_bytes=size * np.dtype(release.spec.dtype).itemsize,
        reply_bytes=4 * halves.answers.outputs,
    )
