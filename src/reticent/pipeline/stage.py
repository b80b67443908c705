"""One regime of a run: a partition, the deployed model, its hardened twin."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from reticent.attacks.view import ServerView
from reticent.audit.views import protected_view, undefended_view
from reticent.data.answers import Answers, outcomes, utility
from reticent.data.partition import Partition, Regime, partition
from reticent.data.task import Records, Task
from reticent.errors import ConfigError, UnsupportedError
from reticent.guarantee import Guarantee
from reticent.inference.plain.deployed import plain
from reticent.inference.split.harden import Hardened, candidate_cuts, harden
from reticent.inference.split.methods import METHODS
from reticent.models import checkpoint
from reticent.models.networks import build, default_network
from reticent.pipeline.private_training import Private, fit_private
from reticent.pipeline.recipe import Recipe
from reticent.training.one_class import fit_one_class
from reticent.training.plain import Plan, fit, forward

Report = Callable[[str], None]
# Fewer users than this can't be dealt to defender, attacker and test with some left to tell apart.
_MIN_UNSEEN = 12
CERTIFY_SHARE = 0.08
_TWIN_STEPS = 2000


_VOID = (
    "Never: {method} reads the training records again, without privacy, so the model's claim of "
    'differential privacy would be void. Serve it as it is: [inference] channel = "plain", or '
    '"ckks" where it is linear.'
)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Data parts and the deployed model of one regime.

    `guarantees` are those of its training, `private` how it was paid for, and `twin` the same
    network trained without privacy, for comparison alone: it is never published.
    """

    task: Task
    answers: Answers
    partition: Partition
    network: str
    model: nn.Module
    guarantees: tuple[Guarantee, ...] = ()
    private: Private | None = None
    twin: nn.Module | None = None

    def records(self, part: str) -> Records:
        """The rows of one part."""
        rows: NDArray[np.int64] = getattr(self.partition, part)
        return self.task.take(rows)

    def outputs(self, part: str) -> NDArray[np.float32]:
        """The deployed model's outputs (n, o) on one part."""
        return forward(self.model, torch.from_numpy(self.records(part).x)).numpy()

    def harden(self, recipe: Recipe, **changes: Any) -> Hardened:
        """The model hardened as the recipe says; `changes` override arguments of `harden`."""
        inference = recipe.inference
        if self.guarantees and changes.get("method") is not None:
            raise UnsupportedError(_VOID.format(method=changes["method"]))
        if inference.channel == "plain" and "method" not in changes:
            return plain(self.model, self.records("train").x[:1], self.answers, self.guarantees)
        if self.guarantees and inference.channel != "ckks":
            raise UnsupportedError(_VOID.format(method=inference.method))
        options = dict(inference.options)
        if self.guarantees:
            # Standardised by public constants, the inputs' range is [-1, 1]: no record is read.
            options["bound"] = 1.0
        settings: dict[str, Any] = {
            "method": inference.method or "adapter_code",
            "cut": cut_name(self, inference.cut),
            "codes": inference.codes,
            "retrain": inference.retrain,
            "max_utility_loss": _or(recipe.gates.max_utility_loss, 0.01),
            "max_client_share": _or(recipe.gates.max_client_flops_share, 0.25),
            "epochs": int(options.pop("epochs", max(8, recipe.train.epochs))),
            "learning_rate": recipe.train.learning_rate,
            "batch_size": recipe.train.batch_size,
            "seed": recipe.seed,
            "options": options,
        }
        made = harden(
            self.model,
            train=self.records("train"),
            validation=self.records("validation"),
            answers=self.answers,
            certify=self.records("certify") if len(self.partition.certify) else None,
            **{**settings, **changes},
        )
        return replace(made, guarantees=(*made.guarantees, *self.guarantees))

    def protected(self, hardened: Hardened, *, seed: int = 0) -> ServerView:
        """What the server sees of the hardened deployment."""
        return protected_view(
            hardened.halves, self.task, self.partition, name=hardened.label, seed=seed
        )

    def undefended(self, cut: str) -> ServerView:
        """What the server sees of the same cut without hardening."""
        return undefended_view(self.model, cut, self.answers, self.task, self.partition)

    def test_outcomes(
        self, hardened: Hardened | None = None, *, seed: int = 0
    ) -> NDArray[np.float64]:
        """Per-record utility (n,) on the test part: of the model, or of its hardened twin."""
        test = self.records("test")
        outputs = (
            self.outputs("test") if hardened is None else hardened.halves.predict(test.x, seed=seed)
        )
        return outcomes(self.task.kind, outputs, test.public)

    def undefended_outcomes(self) -> NDArray[np.float64]:
        """`test_outcomes` of the model without any protection, of its training too."""
        if self.twin is None:
            return self.test_outcomes()
        test = self.records("test")
        outputs = forward(self.twin, torch.from_numpy(test.x)).numpy()
        return outcomes(self.task.kind, outputs, test.public)

    def alone(self, hardened: Hardened, recipe: Recipe) -> float:
        """Test utility of a stand-alone classifier of the client half's cost.

        The client half's own architecture, from scratch, on the defender's data: what a client
        with as much labelled data could run instead of the service.
        """
        torch.manual_seed(recipe.seed + 7)
        body = copy.deepcopy(hardened.halves.encoder).requires_grad_(True)
        for module in body.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
        test = self.records("test")
        with torch.no_grad():
            width = body.eval()(torch.from_numpy(test.x[:2])).shape[1]
        outputs = self.answers.outputs
        body = nn.Sequential(body, nn.Linear(width, outputs)) if width != outputs else body
        trained = fit(
            body,
            self.records("train"),
            self.records("validation"),
            kind=self.task.kind,
            plan=_plan(recipe),
            seed=recipe.seed,
        )
        made = forward(trained.model, torch.from_numpy(test.x)).numpy()
        return utility(self.task.kind, made, test.public)


def prepare(recipe: Recipe, task: Task, regime: Regime, *, report: Report) -> Stage:
    """Partition the task and train the model that a provider would have deployed."""
    if recipe.model.checkpoint is not None:
        return restored(recipe, task, regime, Path(recipe.model.checkpoint))
    parts = parts_of(recipe, task, regime)
    train, validation = task.take(parts.train), task.take(parts.validation)
    answers = _answers(recipe, task, parts)
    name = recipe.model.name
    network = default_network(task.x.shape[1:]) if name == "auto" else name
    torch.manual_seed(recipe.seed)
    is_private = recipe.train.private is not None
    model = build(
        network,
        shape=task.x.shape[1:],
        outputs=answers.outputs,
        x=None if is_private else train.x,
        y=None if is_private else train.public,
        options=network_options(recipe, network),
    )
    if is_private:
        report(f"train with differential privacy ({network}, {len(train)} records, {regime} users)")
        made = fit_private(model, recipe, task, train, regime)
        return Stage(
            task=task,
            answers=answers,
            partition=parts,
            network=network,
            model=made.model,
            guarantees=(made.guarantee,),
            private=made,
            twin=_twin(recipe, task, parts, network),
        )
    report(f"train the deployed model ({network}, {len(train)} records, {regime} users)")
    if network == "one_class":
        assert isinstance(model, nn.Sequential)
        trained = fit_one_class(model, train, validation, plan=_plan(recipe), seed=recipe.seed)
    else:
        trained = fit(
            model, train, validation, kind=task.kind, plan=_plan(recipe), seed=recipe.seed
        )
    return Stage(task=task, answers=answers, partition=parts, network=network, model=trained.model)


def _twin(recipe: Recipe, task: Task, parts: Partition, network: str) -> nn.Module:
    """What the private model would be without privacy: as [train] trains by default."""
    train, validation = task.take(parts.train), task.take(parts.validation)
    torch.manual_seed(recipe.seed)
    model = build(
        network,
        shape=task.x.shape[1:],
        outputs=answers_of(task, parts).outputs,
        x=train.x,
        y=train.public,
        options=network_options(recipe, network),
    )
    # Small sets need more passes for as many steps.
    plan = _plan(recipe)
    passes = max(plan.epochs, min(300, -(-_TWIN_STEPS * plan.batch_size // len(train))))
    plan = replace(plan, epochs=passes)
    return fit(model, train, validation, kind=task.kind, plan=plan, seed=recipe.seed).model


def network_options(recipe: Recipe, network: str) -> dict[str, Any]:
    """The recipe's options for its network; private training takes group normalisation."""
    options = dict(recipe.model.options)
    if recipe.train.private is not None and network in ("convnet1d", "convnet2d"):
        options.setdefault("norm", "group")
    return options


def parts_of(recipe: Recipe, task: Task, regime: Regime) -> Partition:
    """The recipe's partition, with a part for certificates where its method needs one."""
    method = METHODS[recipe.inference.method or "adapter_code"]
    average = method.certifies_on_average(recipe.inference.options)
    share = CERTIFY_SHARE if average else 0.0
    return partition(task, regime=regime, seed=recipe.seed, certify=share)


def answers_of(
    task: Task,
    parts: Partition,
    levels: int | None = None,
    *,
    span: tuple[float, float] | None = None,
) -> Answers:
    """The answers of a service for `task`: regression levels are laid on the training rows.

    With `span`, the labels' public range, they are laid on that, and no row is read for them.
    """
    labels = task.public[parts.train] if span is None else np.linspace(*span, 1001)
    return Answers.of(task.kind, labels, classes=task.classes, levels=levels)


def _answers(recipe: Recipe, task: Task, parts: Partition) -> Answers:
    private = recipe.train.private
    span = None if private is None else private.label_span
    return answers_of(task, parts, recipe.task.options.get("levels"), span=span)


def restored(recipe: Recipe, task: Task, regime: Regime, folder: Path) -> Stage:
    """The stage of a model that was trained before; refused when it doesn't fit the task."""
    parts = parts_of(recipe, task, regime)
    model, card = checkpoint.load(folder)
    answers = _answers(recipe, task, parts)
    if card.shape != task.x.shape[1:] or card.outputs != answers.outputs:
        raise ConfigError(
            f"The checkpoint takes records of shape={card.shape} and gives {card.outputs} outputs; "
            f"the task has shape={task.x.shape[1:]} and needs {answers.outputs}. "
            "Give the checkpoint of this task."
        )
    claims = checkpoint.load_guarantees(folder)
    return Stage(
        task=task,
        answers=answers,
        partition=parts,
        network=card.network,
        model=model,
        guarantees=claims,
        twin=_twin(recipe, task, parts, card.network) if claims else None,
    )


def regimes(recipe: Recipe, task: Task) -> Mapping[str, tuple[Regime, ...]]:
    """In which regimes each audited attribute is attacked.

    By default identity itself, and attributes that vary within a user, with known users; other
    attributes of users (sex, age) with unseen users, where there are users enough.
    """
    chosen: dict[str, tuple[Regime, ...]] = {}
    for name in recipe.audit.attributes or tuple(task.private):
        if name not in task.private:
            raise ConfigError(
                f"Expected audited attributes among {sorted(task.private)}, got {name!r}."
            )
        asked = recipe.task.regime_of(name)
        if asked == "both":
            chosen[name] = ("known", "unseen")
        elif asked != "auto":
            chosen[name] = ("known",) if asked == "known" else ("unseen",)
        else:
            chosen[name] = ("unseen",) if _is_trait(task, name) else ("known",)
    return chosen


def by_regime(recipe: Recipe, task: Task) -> dict[Regime, list[str]]:
    """Audited attributes by regime, known users first.

    Quick runs keep to one regime, and so does private training: each regime trains a model of its
    own, and the records would pay for one that nobody gets.
    """
    wanted: dict[Regime, list[str]] = {}
    for name, found in regimes(recipe, task).items():
        for regime in found:
            wanted.setdefault(regime, []).append(name)
    order: tuple[Regime, ...] = ("known", "unseen")
    ordered = {regime: wanted[regime] for regime in order if regime in wanted}
    if (recipe.audit.quick or recipe.train.private is not None) and len(ordered) > 1:
        first = next(iter(ordered))
        return {first: list(dict.fromkeys(name for names in ordered.values() for name in names))}
    return ordered


def cut_name(stage: Stage, cut: str | int) -> str:
    """A cut by name; numbers count the candidate cuts from the input."""
    if isinstance(cut, str):
        return cut
    names = [point.name for point in candidate_cuts(stage.model, stage.records("train"))]
    if cut >= len(names):
        raise ConfigError(f"Expected a cut below {len(names)} ({names}), got cut={cut}.")
    return names[cut]


def _is_trait(task: Task, name: str) -> bool:
    """Constant per user, shared by several users, and users enough to set some aside."""
    if task.users is None:
        return False
    users, first, inverse = np.unique(task.users, return_index=True, return_inverse=True)
    values = task.private[name]
    constant = np.array_equal(values, values[first][inverse])
    shared = len(np.unique(values)) <= len(users) // 3
    return bool(constant and shared and len(users) >= _MIN_UNSEEN)


def _plan(recipe: Recipe) -> Plan:
    train = recipe.train
    return Plan(
        epochs=train.epochs,
        learning_rate=train.learning_rate,
        batch_size=train.batch_size,
        weight_decay=train.weight_decay,
    )


def _or(value: float | None, default: float) -> float:
    return default if value is None else value
