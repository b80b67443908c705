"""Sealing a classifier: the encoder stays as it is, the rest becomes a polynomial network."""

from __future__ import annotations

import dataclasses
from typing import cast, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from reticent.data.task import Kind
from reticent.errors import ConfigError, GateError, UnsupportedError
from reticent.inference.ckks.activations import replaced
from reticent.inference.ckks.graph_import import to_program
from reticent.inference.ckks.plan import Goal
from reticent.inference.ckks.polynomialise import polynomialise
from reticent.inference.ckks.program import Polynomial, Program
from reticent.inference.ckks.reach import MOST_RECORDS
from reticent.inference.sealed.files import Layout, laid_out
from reticent.inference.sealed.release import Sealed
from reticent.inference.split.halves import Halves
from reticent.inference.split.problem import Problem
from reticent.training.plain import forward

OPTIONS = ("tolerance", "epochs", "degree", "goal", "bound", "flooding_bits", "encoder")
# Of statistical security, against a client that would learn of the weights from noise in answers.
FLOODING_BITS = 40
# Deeper heads need larger rings than a client cares to send.
MOST_LEVELS = 4
# How `sealed` says that a cut can't be sealed.
REFUSALS = (GateError, UnsupportedError)
_ROWS = 512


class SealedHead(nn.Module):
    """The network that the server evaluates, on plaintext: features (n, d) to scores (n, o)."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.layout = layout

    def forward(self, features: Tensor) -> Tensor:
        """As the ciphertexts would give it, but for their rounding; no gradients."""
        program = self.layout.program
        rows = features.detach().double().numpy().reshape(-1, *program.input_shape)
        parts = [program.run(rows[at : at + _ROWS]) for at in range(0, len(rows), _ROWS)]
        return torch.from_numpy(np.concatenate(parts).reshape(len(rows), -1)).float()

    def __deepcopy__(self, memo: object) -> SealedHead:
        return self


def sealed(problem: Problem) -> Halves:
    """The part before the cut for the client, the part behind it for ciphertexts.

    Options: `tolerance` (accuracy that the polynomials may cost on the validation part, 0.01),
    `epochs` of their distillation (30, more on small sets), `degree` (2), `goal` of the layout
    ("latency"), `flooding_bits` (40; 0 leaves noise in answers that depends on the weights, in a
    smaller ring). With `bound`, the features' public range, no record is read; the head must be
    linear then. With `encoder`, the name of another method, that one hardens both parts first.
    Raises `GateError` with a table beyond the tolerance, `UnsupportedError` for a head that no
    ring holds and for tasks that aren't classification.
    """
    if problem.answers.kind is Kind.REGRESSION:
        raise UnsupportedError(
            "Not yet: the sealed split answers classifications. Choose another method for a "
            "regression task."
        )
    goal = problem.options.get("goal", "latency")
    if goal not in get_args(Goal):
        raise ConfigError(f"Expected goal among {get_args(Goal)}, got goal={goal!r}.")
    encoder, head = problem.halves()
    encoder = nn.Sequential(encoder, nn.Flatten()).eval().requires_grad_(False)
    bound = problem.options.get("bound")
    program = _fitted(problem, encoder, head) if bound is None else _unfitted(problem, float(bound))
    flooding = problem.options.get("flooding_bits", FLOODING_BITS)
    if isinstance(flooding, bool) or not isinstance(flooding, int) or not 0 <= flooding <= 128:
        raise ConfigError(f"Expected 0 <= flooding_bits <= 128, got flooding_bits={flooding!r}.")
    records = _features(problem, encoder) if bound is None else None
    layout = laid_out(program, goal=cast(Goal, goal), flooding_bits=flooding, records=records)
    return Halves(
        encoder=encoder,
        release=Sealed(plan=layout.plan.for_client()),
        head=SealedHead(layout).eval(),
        answers=problem.answers,
    )


def _unfitted(problem: Problem, bound: float) -> Program:
    if depth(problem) > 1:
        raise UnsupportedError(
            "Never without records: polynomials are fitted on what reaches the activations. Seal a "
            "linear network, such as [model] options = { widths = [] }."
        )
    _, head = problem.halves()
    sample = torch.zeros(1, *problem.feature_shape())
    return dataclasses.replace(
        to_program(replaced(head.eval(), sample, degree=2), sample), bound=bound
    )


def _fitted(problem: Problem, encoder: nn.Module, head: nn.Module) -> Program:
    shape = problem.feature_shape()
    made = polynomialise(
        head.eval(),
        forward(encoder, torch.from_numpy(problem.train.x)).reshape(-1, *shape),
        held_out=forward(encoder, torch.from_numpy(problem.validation.x)).reshape(-1, *shape),
        labels=torch.from_numpy(np.asarray(problem.validation.public, dtype=np.int64)),
        tolerance=float(problem.options.get("tolerance", 0.01)),
        degree=int(problem.options.get("degree", 2)),
        epochs=int(problem.options.get("epochs", _epochs(len(problem.train.x)))),
        seed=problem.seed,
    )
    return made.program


def _features(problem: Problem, encoder: nn.Module) -> NDArray[np.float64]:
    """What the encoder makes of training records: inputs like those that will be sealed."""
    x = torch.from_numpy(problem.train.x[:MOST_RECORDS])
    return forward(encoder, x).double().numpy()


def _epochs(n: int) -> int:
    """Passes over `n` records: small sets need more of them to see as many steps."""
    return min(200, max(30, 60_000 // n))


def depth(problem: Problem) -> int:
    """How many products in a row the head behind the cut needs: one per matrix, one per square.

    Seen before anything is fitted. Raises `UnsupportedError` for layers without a polynomial.
    """
    _, head = problem.halves()
    features = torch.zeros(1, *problem.feature_shape())
    program = to_program(replaced(head.eval(), features, degree=2), features)
    activations = sum(isinstance(step.operation, Polynomial) for step in program.steps)
    return 2 * activations + 1
