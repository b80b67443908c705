"""Training in order that a ledger pays for, from a budget of its own neighbouring relation.

A ledger's block states one relation, and adds up only what holds under it. The correlated noise of
`correlated` protects against replacing one record by nothing in its place, which says less than
adding or removing one: its runs are charged to blocks that were granted with that relation, and
nothing else is.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from reticent.privacy.ledger import Ledger
from reticent.training.dp_sgd.accountant import renyi_curve
from reticent.training.dp_sgd.charged import (
    CHARGED_ORDERS,
    Paid,
    admitted,
    check_trainable,
    costs,
    delivered,
    reserve,
)
from reticent.training.dp_sgd.clipping import Clipping, Flat
from reticent.training.dp_sgd.correlated import (
    RELATION,
    OrderedPlan,
    calibrated,
    check_ordered,
    train_ordered,
)
from reticent.training.dp_sgd.trainer import PerExampleLoss, Progress, default_losses


def train_ordered_charged(
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
    losses: PerExampleLoss = default_losses,
    plan: OrderedPlan | None = None,
    clipping: Clipping | None = None,
    analyst: str = "",
    progress: Progress | None = None,
) -> Paid:
    """`train_ordered`, charged to `dataset` before a record is read, and for good.

    The budget was granted per record with `relation=correlated.RELATION`. What is refused, and
    when, is as in `train_charged`.
    """
    plan, clipping = plan or OrderedPlan(), clipping or Flat()
    registered = admitted(
        inputs, targets, ledger=ledger, dataset=dataset, granted=granted, relation=RELATION
    )
    check_ordered(inputs, targets, plan, clipping)
    check_trainable(model)
    mechanism = calibrated(epsilon, delta)
    charge, charged_as = reserve(
        ledger,
        registered.id,
        costs(renyi_curve(mechanism, CHARGED_ORDERS), epsilon, delta),
        key=key,
        analyst=analyst,
        event={
            "mechanism": "banded Toeplitz factorisation, in order",
            "plan": repr(plan),
            "clipping": repr(clipping),
            "accounted": repr(mechanism),
        },
    )
    ledger.start(charge.id)
    trained = train_ordered(
        model,
        inputs,
        targets,
        epsilon=epsilon,
        delta=delta,
        plan=plan,
        losses=losses,
        clipping=clipping,
        progress=progress,
    )
    return delivered(
        ledger,
        charge,
        trained,
        mechanism=mechanism,
        epsilon=epsilon,
        dataset=registered.id,
        charged_as=charged_as,
    )
