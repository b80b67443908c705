"""A recipe's model trained with differential privacy: granted, charged, certified."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from reticent.data.task import Kind, Records, Task
from reticent.errors import ConfigError, DataError, UnsupportedError
from reticent.guarantee import Guarantee
from reticent.models.networks import Rescale, Standardise
from reticent.pipeline.recipe import PrivateTable, Recipe, load_recipe
from reticent.pipeline.tasks import load_task
from reticent.privacy.certificate import Entry, certify
from reticent.privacy.ledger import Ledger
from reticent.privacy.ledger.place import ledger_path
from reticent.training.dp_sgd import accountant
from reticent.training.dp_sgd.accountant import Mechanism
from reticent.training.dp_sgd.charged import digests, of_users, train_charged
from reticent.training.dp_sgd.clipping import Automatic, Clipping, Flat, PerLayer
from reticent.training.dp_sgd.keystream import KeyStream
from reticent.training.dp_sgd.sampling import bound_contributions
from reticent.training.dp_sgd.trainer import (
    PerExampleLoss,
    Plan,
    PrivatelyTrained,
    calibrated,
    default_losses,
    train_dp,
)

NO_LEDGER = "none"
UNPAID = "no ledger was charged: what other runs on these records give away isn't counted"
_CLIPPINGS: Mapping[str, type[Flat | PerLayer | Automatic]] = {
    "flat": Flat,
    "per_layer": PerLayer,
    "automatic": Automatic,
}
_DELTAS = (1e-4, 1e-5, 1e-6, 1e-7, 1e-8)


@dataclass(frozen=True, kw_only=True)
class Private:
    """A privately trained model, its guarantee, and what its certificate will say."""

    model: nn.Module
    guarantee: Guarantee
    mechanism: Mechanism
    ledger: Path | None = None
    entry: Entry | None = None

    def certificate(
        self, output: str, audit: Mapping[str, Any] | None = None
    ) -> dict[str, Any] | None:
        """The signed certificate over `output`, the SHA-256 of the weights; None without ledger."""
        if self.ledger is None or self.entry is None:
            return None
        mechanism = self.mechanism
        deltas = sorted({*_DELTAS, self.guarantee.to_json()["strength"]["delta"]}, reverse=True)
        ledger = Ledger.open(self.ledger)
        try:
            return certify(
                ledger.key,
                claim=self.guarantee,
                events=str(accountant.event(mechanism)),
                curve=list(zip(deltas, accountant.curve(mechanism, tuple(deltas)), strict=True)),
                sampling={
                    "kind": "Poisson",
                    "probability": mechanism.sampling_probability,
                    "capacity": mechanism.capacity,
                    "steps": mechanism.steps,
                    "noise_multiplier": mechanism.noise_multiplier,
                    "records_per_user": mechanism.records_per_user,
                },
                generator="secure: AES-256 in counter mode, keyed by the operating system",
                output=output,
                entry=self.entry,
                audit=audit,
            )
        finally:
            ledger.close()


def fit_private(model: nn.Module, recipe: Recipe, task: Task, train: Records, run: str) -> Private:
    """`model` trained on `train` as [train.private] says; the ledger pays before a record is read.

    The budget is that of all records of the task, whichever part of them is trained on. `run`
    tells apart the models that one recipe trains. Raises `BudgetExhaustedError` over the cap,
    `ConfigError` for a ledger or grant that isn't there, or a run that has run.
    """
    private = recipe.train.private
    assert private is not None
    _check(task, train, private, recipe.task.unit)
    if task.kind is Kind.REGRESSION and recipe.audit.attacks:
        # Found out later, after the charge, by the audit itself.
        raise ConfigError(
            f"Expected no [audit] attacks for a regression, got {list(recipe.audit.attacks)}: they "
            "read class probabilities. Remove them; the attack from inside runs all the same."
        )
    with torch.no_grad():
        _fix_range(model, private)
    x, y = _tensors(train.x, train.public)
    # The partition and the steps are public; only what the taps read is private.
    users = train.users if recipe.task.unit == "user" else None
    if private.ledger == NO_LEDGER:
        trained = _uncharged(model, x, y, users, private)
        return _made(trained)
    path = ledger_path(private.ledger)
    if not path.exists():
        raise ConfigError(
            f"Expected a ledger that pays for private training, got ledger={path.name!r}: it isn't "
            "there. Run: reticent budget grant RECIPE.toml --epsilon E --delta D"
        )
    ledger = Ledger.open(path)
    try:
        paid = train_charged(
            model,
            x,
            y,
            epsilon=private.epsilon,
            delta=private.delta,
            ledger=ledger,
            dataset=private.dataset or task.name,
            key=private.key or f"{recipe.name} {recipe.digest()[:16]} {run}",
            granted=task_units(task, recipe.task.unit),
            users=users,
            records_per_user=private.records_per_user,
            losses=losses_of(private),
            plan=plan_of(private),
            clipping=clipping_of(private),
            augment=private.augment,
            multiplicity=private.augmentations,
        )
    finally:
        ledger.close()
    entry = Entry(
        dataset=paid.dataset,
        charge=paid.charge,
        receipt=paid.receipt,
        charged_as=paid.charged_as,
    )
    return replace(_made(paid.trained), ledger=path, entry=entry)


def recipe_units(path: Path) -> tuple[str, list[tuple[str, ...]], Literal["record", "user"]]:
    """For `reticent budget grant RECIPE`: the task's name, its units' digests, its unit."""
    recipe = load_recipe(path)
    task = load_task(recipe)
    private = recipe.train.private
    name = task.name if private is None or private.dataset is None else private.dataset
    return name, task_units(task, recipe.task.unit), recipe.task.unit


def task_units(task: Task, unit: str) -> list[tuple[str, ...]]:
    """The digests of every unit of the task, as its budget is granted on them."""
    if unit == "user" and task.users is None:
        raise DataError('Expected user ids with [task] unit = "user"; the task has none.')
    return digests(*_tensors(task.x, task.public), task.users if unit == "user" else None)


def plan_of(private: PrivateTable) -> Plan:
    """The training plan that the table states."""
    return Plan(
        steps=private.steps,
        expected_batch=private.expected_batch,
        chunk=private.chunk,
        learning_rate=private.learning_rate,
        momentum=private.momentum,
        averaging=private.averaging,
    )


def clipping_of(private: PrivateTable) -> Clipping:
    """The clipping rule that the table states."""
    made: Clipping = _CLIPPINGS[private.clipping](clip_norm=private.clipping_norm)
    return made


def losses_of(private: PrivateTable) -> PerExampleLoss:
    """Cross-entropy for classes; for numbers the squared error in units of half their range.

    In the labels' own unit the gradients' lengths, and so what clipping does, would depend on it.
    """
    if private.label_span is None:
        return default_losses
    low, high = private.label_span
    unit = (high - low) / 2
    return lambda outputs, targets: default_losses(outputs / unit, targets / unit)


def mechanism_of(private: PrivateTable, n: int) -> Mechanism:
    """What a run on `n` records does to them: public, like all it depends on."""
    return calibrated(
        plan_of(private),
        n,
        epsilon=private.epsilon,
        delta=private.delta,
        records_per_user=private.records_per_user,
    )


def _uncharged(
    model: nn.Module, x: Tensor, y: Tensor, users: Any, private: PrivateTable
) -> PrivatelyTrained:
    """Trained all the same, with a claim that says that nobody paid."""
    if users is not None:
        rows = torch.from_numpy(bound_contributions(users, private.records_per_user, KeyStream()))
        x, y = x[rows], y[rows]
    trained = train_dp(
        model,
        x,
        y,
        losses=losses_of(private),
        epsilon=private.epsilon,
        delta=private.delta,
        plan=plan_of(private),
        clipping=clipping_of(private),
        augment=private.augment,
        multiplicity=private.augmentations,
        records_per_user=private.records_per_user,
    )
    trained = trained if users is None else of_users(trained)
    claim = trained.guarantee
    assert claim is not None
    return replace(trained, guarantee=replace(claim, assumptions=(*claim.assumptions, UNPAID)))


def _made(trained: PrivatelyTrained) -> Private:
    assert trained.guarantee is not None
    return Private(model=trained.model, guarantee=trained.guarantee, mechanism=trained.mechanism)


def _check(task: Task, train: Records, private: PrivateTable, unit: str) -> None:
    if task.kind is Kind.ANOMALY:
        raise UnsupportedError(
            "Not yet: [train.private] trains classifiers and regressions, the task is anomaly."
        )
    if (task.kind is Kind.REGRESSION) != (private.label_span is not None):
        raise ConfigError(
            "Expected train.private.label_low and label_high, the labels' public range, for a "
            f"regression and for nothing else, got {private.label_span} for {task.kind.value}."
        )
    if private.expected_batch > len(train):
        raise ConfigError(
            f"Expected train.private.expected_batch of at most the {len(train)} training records, "
            f"got {private.expected_batch}."
        )
    if unit == "user" and train.users is None:
        raise DataError('Expected user ids with [task] unit = "user"; the task has none.')


def _fix_range(model: nn.Module, private: PrivateTable) -> None:
    """Constants that are public, in the place of means and deviations of the data."""
    for module in model.modules():
        if isinstance(module, Standardise):
            module.mean.fill_((private.low + private.high) / 2)
            module.std.fill_((private.high - private.low) / 2)
        if isinstance(module, Rescale) and private.label_span is not None:
            low, high = private.label_span
            module.offset.fill_((low + high) / 2)
            module.scale.fill_((high - low) / 2)


def _tensors(x: Any, y: Any) -> tuple[Tensor, Tensor]:
    labels = torch.from_numpy(y)
    return torch.from_numpy(x), labels if labels.is_floating_point() else labels.long()
