"""From a model to a plan in one call: made polynomial where it isn't, laid out and priced."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import nn

from reticent.errors import ConfigError, UnsupportedError
from reticent.inference.ckks.batch_plan import BatchPlan, plan_batch
from reticent.inference.ckks.estimators import from_estimator
from reticent.inference.ckks.graph_import import to_program
from reticent.inference.ckks.plan import Plan, plan
from reticent.inference.ckks.polynomialise import polynomialise
from reticent.inference.ckks.program import Program, Values

Goal = Literal["latency", "upload", "throughput"]


def compile(
    model: Any,
    sample: Any,
    *,
    goal: Goal = "latency",
    security: int = 128,
    flooding_bits: int = 0,
    held_out: Any = None,
    labels: Any = None,
    tolerance: float = 0.01,
    report: Callable[[str], object] = print,
) -> Plan | BatchPlan:
    """`model`, a PyTorch module or a fitted scikit-learn classifier, ready for `EncryptedClient`
    and `EncryptedServer`, or for `BatchClient` and `BatchServer` where `goal` is "throughput".

    `sample` (n, ...) are inputs like those that will be sent: their largest size is what clients
    may send, and the answers' precision is certified on them. Activations that are no polynomials
    are fitted on `sample` where `held_out` (m, ...), with its `labels` (m,) or else by the model's
    own answers, decides whether they may stand: they may cost `tolerance` of accuracy.
    What was chosen, and what would cost what instead, goes to `report` before anything is
    encrypted. `security` is 128 bits, the one table that is enforced.
    Raises `ConfigError`; `UnsupportedError` for layers without a polynomial and networks that no
    ring holds; `GateError` where polynomials answer worse than the model.
    """
    if goal not in get_args(Goal):
        raise ConfigError(f"Expected goal among {get_args(Goal)}, got goal={goal!r}.")
    if security != 128:
        raise UnsupportedError(
            f"Not yet: parameters are those of 128 bits of security, got security={security}."
        )
    program, records = _program(model, sample, held_out, labels, tolerance)
    if goal != "throughput":
        made = plan(program, goal=goal, records=records, flooding_bits=flooding_bits)
        report(made.describe())
        report(f"instead, goal='throughput': {_batch(program, records)}")
        return made
    if flooding_bits:
        raise UnsupportedError(
            f"Not yet: batches aren't flooded, got flooding_bits={flooding_bits} with "
            "goal='throughput'."
        )
    batch = plan_batch(program, records=records)
    report(batch.describe())
    return batch


def _program(
    model: Any, sample: Any, held_out: Any, labels: Any, tolerance: float
) -> tuple[Program, Values]:
    if not isinstance(model, nn.Module):
        records = np.asarray(sample, dtype=np.float64)
        return from_estimator(model, bound=float(np.abs(records).max(initial=0))), records
    given = torch.as_tensor(np.asarray(sample)).float()
    records = given.double().numpy().reshape(len(given), -1)
    if held_out is None:
        return to_program(model, given), records
    others = torch.as_tensor(np.asarray(held_out)).float()
    truth = None if labels is None else torch.as_tensor(np.asarray(labels)).long()
    made = polynomialise(model, given, held_out=others, labels=truth, tolerance=tolerance)
    return made.program, records


def _batch(program: Program, records: Values) -> str:
    try:
        return plan_batch(program, records=records).describe().splitlines()[-1]
    except UnsupportedError as error:
        return str(error)
