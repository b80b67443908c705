"""DP-SGD that a ledger pays for: charged before a record is trained on, and for good.

    identity of the records -> reserve -> start -> train -> commit -> the model leaves

A crash anywhere after the reservation leaves it charged; nothing is handed out before the commit.

The charge is the run's Renyi curve where the caps admit it: curves of several runs add up to far
less than their epsilons, and bring no delta along. A run that would fill a cap to the brim is
charged as (epsilon, delta), which is tighter for one run alone.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from reticent.errors import (
    BudgetExhaustedError,
    ConfigError,
    EvidenceError,
    ReticentError,
)
from reticent.guarantee import DifferentialPrivacy
from reticent.privacy.ledger import (
    ORDERS,
    Charge,
    Cost,
    Dataset,
    Ledger,
    approximate_dp,
    dataset_digest,
    rdp,
    record_digests,
    user_digests,
)
from reticent.training.dp_sgd.accountant import Mechanism, renyi_curve
from reticent.training.dp_sgd.augmentation import Transform, Views
from reticent.training.dp_sgd.clipping import Clipping
from reticent.training.dp_sgd.engine import Engine
from reticent.training.dp_sgd.keystream import KeyStream
from reticent.training.dp_sgd.sampling import bound_contributions
from reticent.training.dp_sgd.trainer import (
    PerExampleLoss,
    Plan,
    PrivatelyTrained,
    Progress,
    calibrated,
    check_pairs,
    default_losses,
    train_dp,
)

RELATION = "add or remove one"
RENYI, APPROXIMATE = "Renyi curve", "epsilon and delta"
# Finite sums at whole orders; series between them needn't converge.
CHARGED_ORDERS = tuple(order for order in ORDERS if order.is_integer())


@dataclass(frozen=True, kw_only=True)
class Paid:
    """A trained model, and the ledger's entry for it: charge and receipt.

    `charged_as` says what the charge is: `RENYI` or `APPROXIMATE`.
    """

    trained: PrivatelyTrained
    dataset: str
    charge: str
    receipt: str
    charged_as: str


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
    granted: Sequence[Sequence[str]] | None = None,
    users: NDArray[Any] | None = None,
    records_per_user: int = 1,
    losses: PerExampleLoss = default_losses,
    plan: Plan | None = None,
    clipping: Clipping | None = None,
    augment: Transform | str | None = None,
    multiplicity: int = 1,
    analyst: str = "",
    progress: Progress | None = None,
) -> Paid:
    """A copy of `model` trained with (epsilon, delta)-privacy, charged to `dataset`.

    `dataset` was granted its budget on exactly these records: an npz file with the arrays x and y
    that `inputs` and `targets` hold, whatever their order, or `digests` of them. Where it was
    granted for more records than are trained on, `granted` holds the digests of all its units; all
    of them pay. With `users` (n,) the unit is the user: each gives at most `records_per_user`
    records, drawn secretly. `augment` and `multiplicity` are as in `train_dp`. `key` names this
    run: it is charged once and runs once. Raises `BudgetExhaustedError` where the cap would be
    passed, `EvidenceError` for other records than the registered ones, `ConfigError` for a budget
    of another unit, a key that has run, or views that these records can't have, `UnsupportedError`
    for a module that mixes examples; in all these cases nothing was trained or charged. A network
    that only its first batch shows to mix them has been charged.
    """
    registered = admitted(
        inputs,
        targets,
        ledger=ledger,
        dataset=dataset,
        granted=granted,
        users=users,
        records_per_user=records_per_user,
    )
    plan = plan or Plan()
    check_trainable(model)
    views = Views(augment, multiplicity)
    views.check(tuple(inputs.shape[1:]), inputs.dtype)
    mechanism = calibrated(
        plan,
        len(inputs) if users is None else bounded_size(users, records_per_user),
        epsilon=epsilon,
        delta=delta,
        records_per_user=records_per_user,
    )
    charge, charged_as = reserve(
        ledger,
        registered.id,
        costs(renyi_curve(mechanism, CHARGED_ORDERS), epsilon, delta),
        key=key,
        analyst=analyst,
        event={
            "mechanism": "dp-sgd",
            "plan": repr(plan),
            "clipping": repr(clipping),
            "views": [views.name, views.multiplicity],
            "records_per_user": records_per_user,
            "accounted": asdict(mechanism),
        },
    )
    # A charge that has been started before is refused here: a run's output leaves only once.
    ledger.start(charge.id)
    inputs, targets = bounded(inputs, targets, users, records_per_user)
    trained = train_dp(
        model,
        inputs,
        targets,
        losses=losses,
        epsilon=epsilon,
        delta=delta,
        plan=plan,
        clipping=clipping,
        augment=augment,
        multiplicity=multiplicity,
        records_per_user=records_per_user,
        progress=progress,
    )
    if users is not None:
        trained = of_users(trained)
    return delivered(
        ledger,
        charge,
        trained,
        mechanism=mechanism,
        epsilon=epsilon,
        dataset=registered.id,
        charged_as=charged_as,
    )


def check_trainable(model: nn.Module) -> None:
    """What can't be trained is refused before it is paid for: raises as `Engine` does."""
    Engine(copy.deepcopy(model).train()).detach()


def delivered(
    ledger: Ledger,
    charge: Charge,
    trained: PrivatelyTrained,
    *,
    mechanism: Mechanism,
    epsilon: float,
    dataset: str,
    charged_as: str,
) -> Paid:
    """The model, which leaves once its charge is committed.

    Raises `EvidenceError` for a run of another mechanism, or one that cost more, than was charged.
    """
    is_as_charged = trained.mechanism == mechanism and trained.epsilon <= epsilon
    if trained.guarantee is None or not is_as_charged:
        raise EvidenceError(
            f"Expected at most epsilon={epsilon} by {mechanism}, the run cost {trained.epsilon} by "
            f"{trained.mechanism}. The charge stands and the model is withheld. Report this: it is "
            "a defect."
        )
    committed = ledger.commit(charge.id)
    return Paid(
        trained=trained,
        dataset=dataset,
        charge=committed.id,
        receipt=str(committed.receipt),
        charged_as=charged_as,
    )


def admitted(
    inputs: Tensor,
    targets: Tensor,
    *,
    ledger: Ledger,
    dataset: str,
    granted: Sequence[Sequence[str]] | None,
    users: NDArray[Any] | None = None,
    records_per_user: int = 1,
    relation: str = RELATION,
) -> Dataset:
    """The registered data set that pays for these records; raises as `train_charged` does."""
    check_pairs(inputs, targets)
    if users is None and records_per_user != 1:
        raise ConfigError(
            f"Expected users with records_per_user={records_per_user}, got none. Give each "
            "record's user, or leave it out."
        )
    units = digests(inputs, targets, users)
    unit = "record" if users is None else "user"
    return _registered(ledger, dataset, units, granted or units, unit=unit, relation=relation)


def bounded(
    inputs: Tensor, targets: Tensor, users: NDArray[Any] | None, records_per_user: int
) -> tuple[Tensor, Tensor]:
    """What is trained on: with users, at most `records_per_user` of each, drawn secretly."""
    if users is None:
        return inputs, targets
    rows = torch.from_numpy(bound_contributions(users, records_per_user, KeyStream()))
    return inputs[rows], targets[rows]


def costs(curve: Sequence[float], epsilon: float, delta: float) -> Iterator[tuple[Cost, str]]:
    """What a run may be charged as, the form that composes best first; each alone is a bound.

    `curve` is its Renyi curve at `CHARGED_ORDERS`, in nats.
    """
    if any(math.isfinite(value) for value in curve):
        yield rdp(CHARGED_ORDERS, curve), RENYI
    yield approximate_dp(epsilon=epsilon, delta=delta), APPROXIMATE


def reserve(
    ledger: Ledger,
    dataset: str,
    options: Iterable[tuple[Cost, str]],
    *,
    event: dict[str, Any],
    **about: str,
) -> tuple[Charge, str]:
    """The first form of the cost that every cap admits, or the one that `key` was charged before.

    Raises `BudgetExhaustedError` where none is, `ConfigError` for the key of another request.
    """
    refusal: ReticentError | None = None
    for cost, form in options:
        try:
            told = {**event, "charged_as": form}
            return ledger.reserve(dataset, cost, event=told, **about), form
        except (BudgetExhaustedError, ConfigError) as error:
            # A key that is taken debits nothing, in whatever form.
            refusal = error
    assert refusal is not None
    raise refusal


def bounded_size(users: NDArray[Any], most: int) -> int:
    """How many records are left when each user keeps at most `most`; whichever they are."""
    counts = np.unique(users, return_counts=True)[1]
    return int(np.minimum(counts, most).sum())


def digests(
    inputs: Tensor, targets: Tensor, users: NDArray[Any] | None = None
) -> list[tuple[str, ...]]:
    """The digests of each unit, as an npz file with arrays x and y of the same content has.

    With `users` (n,), an array user of that file, a unit is a user: its id and its records.
    """
    columns = {"x": _plain(inputs), "y": _plain(targets)}
    if users is None:
        return [(digest,) for digest in record_digests(columns)]
    return user_digests({**columns, "user": np.asarray(users)}, "user")


def identity(inputs: Tensor, targets: Tensor, users: NDArray[Any] | None = None) -> str:
    """The data set's identity in a ledger, whatever it is called there."""
    return _identity(digests(inputs, targets, users))


def _identity(units: Sequence[Sequence[str]]) -> str:
    return dataset_digest(" ".join(sorted(unit)) for unit in units)


def of_users(trained: PrivatelyTrained) -> PrivatelyTrained:
    """One record of each user makes a guarantee for records one for users."""
    made = trained.guarantee
    if made is None or not isinstance(made.strength, DifferentialPrivacy):
        return trained
    return replace(trained, guarantee=replace(made, strength=replace(made.strength, unit="user")))


def _plain(values: Tensor) -> object:
    made = values.detach().cpu()
    return made.to(torch.float64).numpy() if made.is_floating_point() else made.numpy()


def _registered(
    ledger: Ledger,
    name: str,
    units: Sequence[Sequence[str]],
    granted: Sequence[Sequence[str]],
    *,
    unit: str,
    relation: str,
) -> Dataset:
    found = ledger.dataset(name)
    if found.unit != unit or found.relation != relation:
        raise ConfigError(
            f"Expected a budget with unit={unit!r} and {relation=}, got "
            f"unit={found.unit!r}, relation={found.relation!r} of dataset={name!r}."
        )
    known = {token for each in granted for token in each}
    if found.id != _identity(granted) or not known.issuperset(t for each in units for t in each):
        raise EvidenceError(
            f"Expected the records that dataset={name!r} was granted its budget for, got others. "
            "Nothing was charged. Grant these a budget: reticent budget grant FILE.npz"
        )
    return found
