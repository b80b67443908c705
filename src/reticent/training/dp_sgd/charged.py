"""DP-SGD that a ledger pays for: charged before a record is trained on, and for good.

    identity of the records -> reserve -> start -> train -> commit -> the model leaves

A crash anywhere after the reservation leaves it charged; nothing is handed out before the commit.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reticent.errors import ConfigError, DataError, EvidenceError
from reticent.privacy.ledger import (
    Dataset,
    Ledger,
    approximate_dp,
    dataset_digest,
    record_digests,
)
from reticent.training.dp_sgd.clipping import Clipping
from reticent.training.dp_sgd.trainer import (
    PerExampleLoss,
    Plan,
    PrivatelyTrained,
    Progress,
    default_losses,
    train_dp,
)

RELATION = "add or remove one"


@dataclass(frozen=True, kw_only=True)
class Paid:
    """A trained model, and the ledger's entry for it: charge and receipt."""

    trained: PrivatelyTrained
    dataset: str
    charge: str
    receipt: str


def train_charged(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    *,
    epsilon: float,
    delta: float,
    ledger: Ledger,
    dataset: str,
    key: str,
    losses: PerExampleLoss = default_losses,
    plan: Plan | None = None,
    clipping: Clipping | None = None,
    analyst: str = "",
    progress: Progress | None = None,
) -> Paid:
    """A copy of `model` trained with (epsilon, delta)-privacy per record, charged to `dataset`.

    `dataset` was granted its budget on exactly these records: an npz file with the arrays x and y
    that `inputs` and `targets` hold, whatever their order, or `identity` of them. `key` names
    this run: it is charged once and runs once. Raises `BudgetExhaustedError` where the cap would
    be passed, `EvidenceError` for other records than the registered ones, `ConfigError` for a
    budget of another unit, or a key that has run; in all these cases nothing was trained.
    """
    if len(inputs) != len(targets) or not len(inputs):
        raise DataError(
            f"Expected one target for each input and at least one, got inputs={len(inputs)}, "
            f"targets={len(targets)}."
        )
    registered = _registered(ledger, dataset, inputs, targets)
    plan = plan or Plan()
    charge = ledger.reserve(
        registered.id,
        approximate_dp(epsilon=epsilon, delta=delta),
        key=key,
        analyst=analyst,
        event={"mechanism": "dp-sgd", "plan": repr(plan), "clipping": repr(clipping)},
    )
    # A charge that has been started before is refused here: a run's output leaves only once.
    ledger.start(charge.id)
    trained = train_dp(
        model,
        inputs,
        targets,
        losses=losses,
        epsilon=epsilon,
        delta=delta,
        plan=plan,
        clipping=clipping,
        progress=progress,
    )
    if trained.guarantee is None or trained.epsilon > epsilon:
        raise EvidenceError(
            f"Expected at most epsilon={epsilon}, the run cost {trained.epsilon}. The charge "
            "stands and the model is withheld. Report this: it is a defect."
        )
    committed = ledger.commit(charge.id)
    return Paid(
        trained=trained,
        dataset=registered.id,
        charge=committed.id,
        receipt=str(committed.receipt),
    )


def digests(inputs: Tensor, targets: Tensor) -> list[str]:
    """One digest per record, as an npz file with arrays x and y of the same content has."""
    return record_digests({"x": _plain(inputs), "y": _plain(targets)})


def identity(inputs: Tensor, targets: Tensor) -> str:
    """The data set's identity in a ledger, whatever it is called there."""
    return dataset_digest(digests(inputs, targets))


def _plain(values: Tensor) -> object:
    made = values.detach().cpu()
    return made.to(torch.float64).numpy() if made.is_floating_point() else made.numpy()


def _registered(ledger: Ledger, name: str, inputs: Tensor, targets: Tensor) -> Dataset:
    found = ledger.dataset(name)
    if found.unit != "record" or found.relation != RELATION:
        raise ConfigError(
            f"Expected a budget with unit='record' and relation={RELATION!r}, got "
            f"unit={found.unit!r}, relation={found.relation!r} of dataset={name!r}."
        )
    if found.id != identity(inputs, targets):
        raise EvidenceError(
            f"Expected the records that dataset={name!r} was granted its budget for, got others. "
            "Nothing was charged. Grant these a budget: reticent budget grant FILE.npz"
        )
    return found
