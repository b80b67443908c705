"""Hardening: a deployed classifier in, two halves with their guarantees and costs out."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from reticent.data.answers import Answers, outcomes
from reticent.data.loss import UtilityLoss, utility_loss
from reticent.data.task import Records
from reticent.errors import ConfigError, UnsupportedError
from reticent.guarantee import (
    SERVER,
    Computational,
    Empirical,
    Guarantee,
    InformationBound,
    Pillar,
)
from reticent.inference.ckks.parameters import ASSUMPTION
from reticent.inference.sealed.method import MOST_LEVELS, REFUSALS, SealedHead, depth
from reticent.inference.sealed.release import Sealed
from reticent.inference.split.certificate import Certificate
from reticent.inference.split.certificate import certify as average_case
from reticent.inference.split.halves import Halves
from reticent.inference.split.methods import METHODS
from reticent.inference.split.problem import Problem
from reticent.inference.split.release import Bare, Code, Noisy
from reticent.models.cut import INPUT, CutPoint, cut_points
from reticent.training.plain import Progress, forward

# Of fewer users than this the records are counted instead: so few can't show a loss between them.
_FEW_USERS = 6


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What the client pays: shares of the deployed model's FLOPs and parameters, bytes."""

    client_flops_share: float
    client_params_share: float
    request_bytes: int
    reply_bytes: int


@dataclass(frozen=True, kw_only=True)
class Hardened:
    """A hardened deployment: halves, guarantees, costs, and utility on the validation part.

    `choices` says in words what was chosen automatically, and on what evidence.
    """

    method: str
    cut: str
    halves: Halves
    guarantees: tuple[Guarantee, ...]
    costs: Costs
    validation_utility: float
    certificate: Certificate | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    choices: tuple[str, ...] = ()

    @property
    def channel(self) -> str:
        """Which way queries go: split, sealed, or (nothing before the cut) ckks."""
        if not isinstance(self.halves.release, Sealed):
            return "plain" if self.method == "plain" else "split"
        return "ckks" if self.cut == INPUT else "sealed"

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
    certify: Records | None = None,
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

    `cut="auto"` takes the earliest cut that keeps the client within `max_client_share` of the
    model's FLOPs and isn't shown, on the validation part and with 95 % confidence, to lose more
    utility than `max_utility_loss`; where every cut is shown to, the one that loses least. A few
    dozen records can show little, so they can't push the cut late. Where no cut keeps within the
    share, the client gets the cheapest. An average-case certificate is taken on `certify`, records
    that chose nothing, else on the validation part, and then says so. `codes` above the number of
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
    takes = (*METHODS[method].options, *_before_sealing(method, options or {}))
    for name in options or {}:
        if name not in takes:
            raise ConfigError(f"Method {method!r} takes the options {list(takes)}, got {name!r}.")
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
        certify=certify,
    )
    if cut != "auto":
        return _at(problem, method)
    if method == "sealed":
        return _earliest_sealed(problem)
    return _earliest(problem, method, max_utility_loss)


def _before_sealing(method: str, options: Mapping[str, Any]) -> tuple[str, ...]:
    """Options of the method that hardens the parts before one of them is sealed."""
    inner = options.get("encoder")
    if method != "sealed" or inner is None:
        return ()
    if inner not in METHODS or inner == "sealed" or METHODS[inner].sends_codes:
        fitting = [one.name for one in METHODS.values() if one.baseline]
        raise ConfigError(f"Expected encoder among {fitting}, got encoder={inner!r}.")
    return METHODS[inner].options


def _hardened_first(problem: Problem) -> Problem:
    """The same problem, its parts hardened by the method that the option `encoder` names."""
    inner = problem.options.get("encoder")
    if inner is None:
        return problem
    taken = METHODS[inner].options
    options = {name: value for name, value in problem.options.items() if name in taken}
    made = METHODS[inner].run(replace(problem, options=options, retrain=METHODS[inner].retrains))
    if not isinstance(made.release, Bare):
        raise UnsupportedError(
            f"Never together: encoder={inner!r} with these options sends noisy features, and what "
            "is encrypted needs no noise. Choose one without: center, supcon, nopeek, adversarial."
        )
    return replace(problem, hardened=made)


def _earliest(problem: Problem, method: str, most: float) -> Hardened:
    """The cut that `harden` describes, with its reason."""
    base = _base_outcomes(problem)
    points = candidate_cuts(problem.model, problem.train, from_input=not METHODS[method].baseline)
    share, owners = problem.max_client_share, problem.validation.users
    if owners is not None and len(np.unique(owners)) < _FEW_USERS:
        owners = None
    affordable = [point for point in points if point.flops_share <= share]
    tried: list[tuple[Hardened, UtilityLoss]] = []
    for point in affordable or points[:1]:
        here = replace(problem, cut=point.name)
        made = _at(here, method)
        lost = utility_loss(base, _outcomes(here, made.halves), clusters=owners)
        tried.append((made, lost))
        if made.costs.client_flops_share <= share and not lost.exceeds(most):
            return _because(made, lost, f"the earliest not shown to lose more than {most:g}")
    fitting = [pair for pair in tried if pair[0].costs.client_flops_share <= share]
    if fitting:
        made, lost = min(fitting, key=lambda pair: pair[1].loss)
        return _because(made, lost, f"every cut within the client's share loses more than {most:g}")
    made, lost = min(tried, key=lambda pair: pair[0].costs.client_flops_share)
    return _because(made, lost, f"no cut keeps the client within {share:g} of the FLOPs")


def _earliest_sealed(problem: Problem) -> Hardened:
    """The earliest cut whose head a small ring holds: of what the server has, most stays there."""
    refused: list[str] = []
    for point in candidate_cuts(problem.model, problem.train):
        here = replace(problem, cut=point.name)
        try:
            if (products := depth(here)) > MOST_LEVELS:
                refused.append(f"{point.name}: {products} products in a row")
                continue
            made = _at(here, "sealed")
        except REFUSALS as error:
            refused.append(f"{point.name}: {str(error).splitlines()[0]}")
            continue
        reason = f"the earliest whose head needs at most {MOST_LEVELS} products in a row"
        share = made.costs.client_flops_share
        choice = f"cut {made.cut}: {reason}; client share {share:.2f}"
        return replace(made, choices=(*made.choices, choice))
    raise UnsupportedError(
        "Never with this network: no cut leaves a head that can be sealed. " + "; ".join(refused)
    )


def _because(made: Hardened, lost: UtilityLoss, reason: str) -> Hardened:
    evidence = (
        f"cut {made.cut}: {reason}; on {lost.n} validation records it loses {lost.loss:.3f}, "
        f"one-sided {lost.confidence:.0%} limits {lost.lower:.3f} and {lost.upper:.3f}; client "
        f"share {made.costs.client_flops_share:.2f}"
    )
    return replace(made, choices=(*made.choices, evidence))


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


def _base_outcomes(problem: Problem) -> NDArray[np.float64]:
    """Utility per validation record (n,) of the deployed model."""
    outputs = forward(problem.teacher(), torch.from_numpy(problem.validation.x)).numpy()
    return outcomes(problem.answers.kind, outputs, problem.validation.public)


def _outcomes(problem: Problem, halves: Halves) -> NDArray[np.float64]:
    """Utility per validation record (n,) of the two halves together."""
    outputs = halves.predict(problem.validation.x, seed=problem.seed)
    return outcomes(problem.answers.kind, outputs, problem.validation.public)


def _at(problem: Problem, method: str) -> Hardened:
    problem = _hardened_first(problem) if method == "sealed" else problem
    halves = METHODS[method].run(problem)
    certificate = _certificate(halves, problem.validation, problem.certify)
    return Hardened(
        method=method,
        cut=problem.cut,
        halves=halves,
        guarantees=guarantees(halves, method, certificate, apart=problem.certify is not None),
        costs=_costs(halves, problem),
        validation_utility=float(_outcomes(problem, halves).mean()),
        certificate=certificate,
        options=problem.options,
        choices=_priced(halves),
    )


def _priced(halves: Halves) -> tuple[str, ...]:
    """What encryption takes here, and what it would take instead; nothing is encrypted yet."""
    head = halves.head
    if not isinstance(head, SealedHead):
        return ()
    return (f"a layout for ciphertexts: {'; '.join(head.layout.plan.describe().splitlines())}",)


def _certificate(
    halves: Halves, validation: Records, certify_on: Records | None = None
) -> Certificate | None:
    held_out = validation if certify_on is None else certify_on
    release = halves.release
    if (
        not isinstance(release, Noisy)
        or release.prototypes is None
        or release.scale.size != 1
        or release.shape != "gaussian"
    ):
        return None
    return average_case(
        halves.features(held_out.x),
        release,
        attributes=held_out.private,
        users=held_out.users,
    )


def guarantees(
    halves: Halves, method: str, certificate: Certificate | None, *, apart: bool = False
) -> tuple[Guarantee, ...]:
    """What the release lets us claim, per pillar; nothing is claimed that it doesn't force.

    `apart` says that the certificate's records had no part in any choice.
    """
    release, source = halves.release, METHODS[method].source
    if isinstance(release, Sealed):
        return tuple(_sealed_guarantee(pillar, source) for pillar in (Pillar.INPUT, Pillar.OUTPUT))
    if isinstance(release, Code):
        return (_code_guarantee(release, method, source),)
    if certificate is not None:
        return (_noise_guarantee(halves, certificate, method, source, apart),)
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


def _sealed_guarantee(pillar: Pillar, source: str) -> Guarantee:
    return Guarantee(
        id=f"{pillar.value}/server/sealed",
        pillar=pillar,
        adversary=SERVER,
        strength=Computational(bits=128, assumption=ASSUMPTION),
        mechanism="CKKS, packing and masks of this project (unaudited) over SEAL",
        assumptions=(
            "the client alone holds the secret key, and tells nobody what it decrypts",
            "the adversary sees how many requests are sent and when; their size is the same "
            "for every input",
            "the server follows the protocol: a wrong answer isn't noticed",
        ),
        source=source,
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
    halves: Halves, certificate: Certificate, method: str, source: str, apart: bool
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
            f"n = {certificate.n} records of {certificate.units} independent units (users, each "
            "weighing alike, where there are user ids); nats are a plug-in mean without a limit",
            "no choice was made on the certified records"
            if apart
            else "the deployed model's best epoch and an automatic cut were chosen on the "
            "certified records, though hardening trained on none of them",
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
    if isinstance(release, Sealed):
        return Costs(
            client_flops_share=problem.flops_share(halves.encoder),
            client_params_share=problem.params_share(halves.encoder),
            request_bytes=release.request_bytes,
            reply_bytes=release.reply_bytes,
        )
    size = release.spec.shape[1] or 1
    return Costs(
        client_flops_share=problem.flops_share(halves.encoder),
        client_params_share=problem.params_share(halves.encoder),
        request_bytes=size * np.dtype(release.spec.dtype).itemsize,
        reply_bytes=4 * halves.answers.outputs,
    )
