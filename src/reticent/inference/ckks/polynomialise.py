"""A trained network as a polynomial one that answers alike, or a refusal with a table."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from reticent.errors import ConfigError, GateError
from reticent.inference.ckks.activations import PolynomialActivation, fit_activations, replaced
from reticent.inference.ckks.distil import distil
from reticent.inference.ckks.graph_import import to_program
from reticent.inference.ckks.program import Program, Values

_FITTED_ON = 1024


@dataclass(frozen=True, kw_only=True)
class Activation:
    """One activation and the polynomial in its place.

    `misfit` is the share of the activation's variance that the first fit left; `reach` the largest
    |pre-activation| on held-out records in units of the fitted range: beyond 1 it leaves it.
    """

    layer: str
    kind: str
    degree: int
    misfit: float
    reach: float


@dataclass(frozen=True, kw_only=True)
class Polynomialised:
    """A polynomial network, its program, and what held-out records say of both.

    `ranges` has the largest absolute value of the input and of every step of the program on
    held-out records, in the program's order: what the modulus must have room for. `accuracy` is on
    `held_out` records, against their labels, or against the original's answers where no labels
    were given (then `original_accuracy` is 1).
    """

    model: nn.Module = field(repr=False)
    program: Program
    activations: tuple[Activation, ...]
    ranges: tuple[float, ...]
    original_accuracy: float
    accuracy: float
    held_out: int

    def table(self) -> str:
        """Activations and accuracies in lines of text."""
        lines = [f"{'layer':<24}{'activation':<12}{'degree':>6}{'misfit':>9}{'reach':>8}"]
        lines += [
            f"{a.layer:<24}{a.kind:<12}{a.degree:>6}{a.misfit:>9.3f}{a.reach:>8.2f}"
            for a in self.activations
        ]
        return "\n".join(
            [
                *lines,
                f"accuracy on {self.held_out} held-out records: original "
                f"{self.original_accuracy:.4f}, polynomial {self.accuracy:.4f}",
            ]
        )


def polynomialise(
    model: nn.Module,
    inputs: Tensor,
    *,
    held_out: Tensor,
    labels: Tensor | None = None,
    answers: Tensor | None = None,
    tolerance: float = 0.005,
    degree: int = 2,
    epochs: int = 30,
    learning_rate: float = 1e-3,
    range_weight: float = 1.0,
    seed: int = 0,
) -> Polynomialised:
    """A polynomial copy of a classifier; `model` itself is left alone.

    `inputs` (n, ...) needs no labels: they teach the copy to answer as `model` does, or as
    `answers` (n, outputs), the logits of another teacher, unless it does so from the start, as a
    linear copy. `held_out` and its `labels` (m,) decide
    and must not be among `inputs`, nor be what a figure is reported on. A single output answers
    with its sign (labels 0 and 1), several with the largest.
    Raises `GateError` with a table when accuracy on `held_out` falls by more than `tolerance`,
    `UnsupportedError` for layers that neither a polynomial nor an average can stand for.
    """
    _check(inputs, held_out, labels, tolerance, degree)
    teacher = model.eval()
    inputs, held_out = inputs.detach().float(), held_out.detach().float()
    wanted = _answers(teacher, inputs) if answers is None else answers.float()
    student = replaced(model, inputs, degree=degree)
    to_program(student, inputs[:1])
    fit_activations(student, inputs[:_FITTED_ON])
    if not torch.allclose(_answers(student, inputs), wanted, rtol=1e-5, atol=1e-6):
        distil(
            student,
            inputs,
            wanted,
            epochs=epochs,
            learning_rate=learning_rate,
            range_weight=range_weight,
            seed=seed,
        )
    made = _measured(student, teacher, inputs, held_out, labels)
    if not made.original_accuracy - made.accuracy <= tolerance:
        raise GateError(
            f"Expected a fall in accuracy of at most tolerance={tolerance}, got "
            f"fall={made.original_accuracy - made.accuracy:.4f}:\n{made.table()}\n"
            "Give more inputs or epochs, a higher degree, or train with polynomial activations "
            "from the start."
        )
    return made


def _measured(
    student: fx.GraphModule,
    teacher: nn.Module,
    inputs: Tensor,
    held_out: Tensor,
    labels: Tensor | None,
) -> Polynomialised:
    reaches = _reaches(student, held_out)
    bound = float(max(inputs.abs().max(), held_out.abs().max()))
    program = replace(to_program(student, held_out[:1]), bound=bound)
    rows = held_out.double().numpy().reshape(len(held_out), *program.input_shape)
    trace = program.trace(rows)
    original = _decided(_answers(teacher, held_out).numpy())
    truth = original if labels is None else labels.numpy()
    decided = _decided(trace[-1].reshape(len(rows), -1))
    return Polynomialised(
        model=student,
        program=program,
        activations=tuple(
            Activation(layer=m.name, kind=m.kind, degree=m.degree, misfit=m.misfit, reach=reach)
            for m, reach in zip(_polynomials(student), reaches, strict=True)
        ),
        ranges=tuple(float(np.abs(values).max()) for values in trace),
        original_accuracy=float((original == truth).mean()),
        accuracy=float((decided == truth).mean()),
        held_out=len(rows),
    )


def _reaches(student: fx.GraphModule, held_out: Tensor) -> list[float]:
    """How far held-out records go in the range of each polynomial, in the order of the layers."""
    seen = dict.fromkeys(_polynomials(student), 0.0)

    def look(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        assert isinstance(module, PolynomialActivation)
        seen[module] = max(seen[module], float(module.scaled(given[0]).abs().max()))

    hooks = [module.register_forward_pre_hook(look) for module in seen]
    _answers(student, held_out)
    for hook in hooks:
        hook.remove()
    return list(seen.values())


def _polynomials(student: nn.Module) -> list[PolynomialActivation]:
    return [m for m in student.modules() if isinstance(m, PolynomialActivation)]


def _answers(model: nn.Module, inputs: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([model(part) for part in inputs.split(512)])


def _decided(answers: Values) -> NDArray[np.int64]:
    if answers.shape[1] == 1:
        return (answers[:, 0] > 0).astype(np.int64)
    return np.asarray(answers.argmax(axis=1), dtype=np.int64)


def _check(
    inputs: Tensor, held_out: Tensor, labels: Tensor | None, tolerance: float, degree: int
) -> None:
    if len(inputs) < 2 or len(held_out) < 1 or inputs.shape[1:] != held_out.shape[1:]:
        raise ConfigError(
            "Expected inputs and held-out records of one shape, got "
            f"inputs={tuple(inputs.shape)}, held_out={tuple(held_out.shape)}."
        )
    if labels is not None and labels.shape != (len(held_out),):
        raise ConfigError(
            f"Expected a label per held-out record, got labels={tuple(labels.shape)} for "
            f"held_out={len(held_out)}."
        )
    if not (0 <= tolerance < 1 and 2 <= degree <= 7):
        raise ConfigError(
            f"Expected 0 <= tolerance < 1 and a degree from 2 to 7, got {tolerance=}, {degree=}."
        )
