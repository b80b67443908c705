"""The model under attack, behind one handle per access level.

    victim = Victim.of_module(model, sample=x)
    handle = victim.at_scores(budget=1_000)
    handle.predict_scores(x)          # counted
    handle.gradients(x, y)            # no such method at this level: a type error

A handle has only the methods of its level, so an attack that is typed for one can't peek above it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from reticent.attacks.shadow.recipe import TrainingRecipe
from reticent.attacks.spec import Access
from reticent.errors import BudgetExhaustedError, ConfigError, DataError, UnsupportedError
from reticent.transcript import Transcript

Batch = NDArray[np.floating[Any]]
Outputs = Literal["logits", "probabilities"]
_ROWS = 2048
_CHECKED = 32


class BlindTarget:
    """Level L0: the shape of a record and the number of classes; nothing can be asked."""

    access = Access.BLIND

    def __init__(self, victim: Victim, *, budget: int | None = None) -> None:
        self.__victim = victim
        self.__budget = budget
        self.__asked = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one record."""
        return self.__victim.shape

    @property
    def classes(self) -> int:
        """The number of classes."""
        return self.__victim.classes

    @property
    def queries(self) -> int:
        """How many records this handle was asked about."""
        return self.__asked

    @property
    def budget(self) -> int | None:
        """How many records it may be asked about (None: any number)."""
        return self.__budget

    def _ask(self, count: int) -> Victim:
        """The victim, after `count` queries are booked; refused before any is answered."""
        if self.__budget is not None and self.__asked + count > self.__budget:
            raise BudgetExhaustedError(
                f"Expected at most budget={self.__budget} queries; {self.__asked} are spent and "
                f"{count} more were asked."
            )
        self.__asked += count
        return self.__victim

    def _open(self) -> Victim:
        return self.__victim


class LabelTarget(BlindTarget):
    """Level L1: the predicted class."""

    access = Access.LABEL

    def predict_label(self, x: Batch) -> NDArray[np.int64]:
        """Predicted classes (n,) of records (n, ...)."""
        return self._ask(len(x)).labels(x)


class ScoreTarget(LabelTarget):
    """Level L2: the class probabilities."""

    access = Access.SCORES

    def predict_scores(self, x: Batch) -> NDArray[np.float64]:
        """Log-probabilities (n, C) in nats of records (n, ...); each row's exponentials sum to 1.

        Differences of log-probabilities are differences of logits.
        """
        return self._ask(len(x)).log_probabilities(x)


class ShadowTarget(ScoreTarget):
    """Level L3: how the target was trained, too."""

    access = Access.SHADOW

    @property
    def recipe(self) -> TrainingRecipe:
        """How the target was trained. Raises `ConfigError` where the auditor did not say."""
        recipe = self._open().recipe
        if recipe is None:
            raise ConfigError(
                "Expected a training recipe for an attack with shadow models, got recipe=None. "
                "Describe the target's training with TrainingRecipe(size=..., epochs=..., ...)."
            )
        return recipe

    @property
    def architecture(self) -> Any:
        """The untrained network (`nn.Module`) or scikit-learn estimator to train models like."""
        return self._open().blank()


class InternalsTarget(ShadowTarget):
    """Level L4: gradients, features, and what crossed the wire."""

    access = Access.INTERNALS

    def gradients(self, x: Batch, y: NDArray[np.int64]) -> dict[str, NDArray[np.float32]]:
        """The mean loss's gradient by parameter name, as one client would send it for (x, y)."""
        module = self._ask(len(x)).module
        names, parameters = zip(*module.named_parameters(), strict=True)
        with torch.enable_grad():
            out = module(_tensor(x))
            loss = functional.cross_entropy(out, torch.as_tensor(y))
            found = torch.autograd.grad(loss, parameters, allow_unused=True)
        return {
            name: np.zeros(tuple(p.shape), np.float32) if g is None else g.numpy()
            for name, p, g in zip(names, parameters, found, strict=True)
        }

    def features(self, x: Batch, layer: str) -> NDArray[np.float32]:
        """The output (n, ...) of the submodule called `layer`."""
        return self._ask(len(x)).features(x, layer)

    @property
    def transcript(self) -> Transcript:
        """What crossed the wire, where the auditor recorded it."""
        return self._open().transcript


class WeightsTarget(InternalsTarget):
    """Level L5: everything."""

    access = Access.WEIGHTS

    @property
    def model(self) -> Any:
        """The `nn.Module` or estimator itself."""
        return self._open().model

    def weights(self) -> dict[str, NDArray[Any]]:
        """Every parameter and buffer of a network by name."""
        state = self._open().module.state_dict()
        return {name: value.detach().numpy() for name, value in state.items()}


@dataclass(frozen=True, kw_only=True, eq=False)
class Victim:
    """A trained classifier under audit. Attacks get a handle from `at_...`, never this.

    Made by `of_module`, `of_estimator` or `of_function`, which check on a sample that the model
    answers, finitely and repeatably, with one column per class.
    """

    model: Any
    shape: tuple[int, ...]
    classes: int
    scores: Callable[[Batch], NDArray[np.float64]] | None
    label: Callable[[Batch], NDArray[np.int64]] | None = None
    recipe: TrainingRecipe | None = None
    template: Any = None
    transcript: Transcript

    @classmethod
    def of_module(
        cls,
        model: nn.Module,
        *,
        sample: Batch,
        outputs: Outputs = "logits",
        recipe: TrainingRecipe | None = None,
        template: nn.Module | None = None,
        transcript: Transcript | None = None,
    ) -> Self:
        """A PyTorch classifier in evaluation mode: (n, ...) to (n, C), or (n, 1) for two classes.

        `template` is an untrained network of the same architecture, for shadow models; without it
        they start from fresh parameters where every layer knows `reset_parameters`. Raises
        `ConfigError` for a model in training mode, not deterministic, or without finite outputs
        of the stated kind.
        """
        if model.training or any(part.training for part in model.modules()):
            raise ConfigError(
                "Expected a model in evaluation mode, got one in training mode, whose dropout and "
                "batch statistics would be measured instead of the model. Call model.eval()."
            )

        def answer(x: Batch) -> NDArray[np.float64]:
            with torch.no_grad():
                parts = [model(part).double() for part in torch.split(_tensor(x), _ROWS)]
            return np.asarray(torch.cat(parts).numpy())

        return cls(
            model=model,
            shape=sample.shape[1:],
            classes=max(2, _checked(answer, sample, outputs)),
            scores=lambda x: _log_probabilities(answer(x), outputs),
            recipe=recipe,
            template=template,
            transcript=transcript or Transcript(),
        )

    @classmethod
    def of_estimator(
        cls, estimator: Any, *, sample: Batch, recipe: TrainingRecipe | None = None
    ) -> Self:
        """A fitted scikit-learn classifier whose classes are 0..C-1.

        Records are flattened to (n, features). Without `predict_proba` only labels are answered.
        Raises `ConfigError` for an estimator that is not fitted, or has other classes.
        """
        classes = getattr(estimator, "classes_", None)
        if classes is None:
            raise ConfigError(
                f"Expected a fitted scikit-learn classifier, got {type(estimator).__name__} "
                "without classes_. Fit it first."
            )
        if not np.array_equal(classes, np.arange(len(classes))):
            raise ConfigError(
                f"Expected an estimator with classes 0..{len(classes) - 1}, got "
                f"classes_={list(classes)[:6]}. Encode the labels as class indices and fit again."
            )

        def answer(x: Batch) -> NDArray[np.float64]:
            return np.asarray(estimator.predict_proba(x.reshape(len(x), -1)), dtype=np.float64)

        graded = hasattr(estimator, "predict_proba")
        if graded:
            _checked(answer, sample, "probabilities")
        return cls(
            model=estimator,
            shape=sample.shape[1:],
            classes=len(classes),
            scores=(lambda x: _log_probabilities(answer(x), "probabilities")) if graded else None,
            label=lambda x: np.asarray(estimator.predict(x.reshape(len(x), -1)), dtype=np.int64),
            recipe=recipe,
            transcript=Transcript(),
        )

    @classmethod
    def of_function(
        cls,
        function: Callable[[Batch], NDArray[Any]],
        *,
        sample: Batch,
        outputs: Outputs = "probabilities",
        recipe: TrainingRecipe | None = None,
        template: Any = None,
        transcript: Transcript | None = None,
    ) -> Self:
        """A model known only by its answers, such as a service: (n, ...) to (n, C)."""

        def answer(x: Batch) -> NDArray[np.float64]:
            return np.asarray(function(x), dtype=np.float64)

        return cls(
            model=function,
            shape=sample.shape[1:],
            classes=max(2, _checked(answer, sample, outputs)),
            scores=lambda x: _log_probabilities(answer(x), outputs),
            recipe=recipe,
            template=template,
            transcript=transcript or Transcript(),
        )

    def at_blind(self) -> BlindTarget:
        """The handle of level L0."""
        return BlindTarget(self)

    def at_label(self, *, budget: int | None = None) -> LabelTarget:
        """The handle of level L1."""
        return LabelTarget(self, budget=budget)

    def at_scores(self, *, budget: int | None = None) -> ScoreTarget:
        """The handle of level L2."""
        return ScoreTarget(self, budget=budget)

    def at_shadow(self, *, budget: int | None = None) -> ShadowTarget:
        """The handle of level L3."""
        return ShadowTarget(self, budget=budget)

    def at_internals(self, *, budget: int | None = None) -> InternalsTarget:
        """The handle of level L4."""
        return InternalsTarget(self, budget=budget)

    def at_weights(self, *, budget: int | None = None) -> WeightsTarget:
        """The handle of level L5."""
        return WeightsTarget(self, budget=budget)

    @property
    def module(self) -> nn.Module:
        """The network. Raises `UnsupportedError` where the model is none."""
        if not isinstance(self.model, nn.Module):
            raise UnsupportedError(
                f"Never with {type(self.model).__name__}: this attack needs a PyTorch network's "
                "gradients or features."
            )
        return self.model

    def log_probabilities(self, x: Batch) -> NDArray[np.float64]:
        """Log-probabilities (n, C). Raises `UnsupportedError` for a model that gives labels only.

        Raises `DataError` for records of another shape or answers that are not finite.
        """
        if self.scores is None:
            raise UnsupportedError(
                f"Never with {type(self.model).__name__}, which has no predict_proba: it answers "
                "labels only. Use attacks of level L1."
            )
        self._check(x)
        found = self.scores(x)
        if not np.isfinite(found).all():
            raise DataError("Expected finite answers from the target, got NaN or infinity.")
        return found

    def labels(self, x: Batch) -> NDArray[np.int64]:
        """Predicted classes (n,)."""
        self._check(x)
        if self.label is not None:
            return self.label(x)
        return np.asarray(self.log_probabilities(x).argmax(axis=1), dtype=np.int64)

    def features(self, x: Batch, layer: str) -> NDArray[np.float32]:
        """The output (n, ...) of the submodule called `layer`."""
        self._check(x)
        module, seen = self.module, []
        try:
            part = module.get_submodule(layer)
        except AttributeError:
            names = [name for name, _ in module.named_modules() if name]
            raise ConfigError(f"Expected layer among {names}, got layer={layer!r}.") from None
        hook = part.register_forward_hook(lambda _m, _i, out: seen.append(out.detach()))
        try:
            with torch.no_grad():
                for rows in torch.split(_tensor(x), _ROWS):
                    module(rows)
        finally:
            hook.remove()
        return np.asarray(torch.cat(seen).numpy())

    def blank(self) -> Any:
        """What shadow models are made from: the template, or the model's own architecture."""
        return self.model if self.template is None else self.template

    def _check(self, x: Batch) -> None:
        if x.shape[1:] != self.shape:
            raise DataError(f"Expected records of shape {self.shape}, got {x.shape[1:]}.")


def _tensor(x: Batch) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))


def _checked(answer: Callable[[Batch], NDArray[np.float64]], sample: Batch, outputs: str) -> int:
    """The number of output columns, once the answers to a few records are what they must be."""
    few = sample[:_CHECKED]
    first, again = answer(few), answer(few)
    if first.ndim != 2 or len(first) != len(few):
        raise ConfigError(
            f"Expected outputs of shape (records, classes), got shape={first.shape} for "
            f"{len(few)} records."
        )
    if not np.isfinite(first).all():
        raise ConfigError("Expected finite outputs, got NaN or infinity from the model.")
    if not np.allclose(first, again, rtol=1e-5, atol=1e-6):
        raise ConfigError(
            "Expected the same answer to the same record twice, got different ones. Switch "
            "dropout and other randomness off."
        )
    # A service that rounds to two decimals is off by half a per cent per class.
    slack = max(1e-3, 0.005 * first.shape[1])
    positive = bool((first >= 0).all() and np.allclose(first.sum(axis=1), 1, atol=slack))
    if outputs == "logits" and positive and first.shape[1] > 1:
        raise ConfigError(
            "Expected logits, got rows that sum to 1. Pass outputs='probabilities', or drop the "
            "softmax layer."
        )
    if outputs == "probabilities" and not positive:
        raise ConfigError(
            "Expected probabilities, got rows that don't sum to 1 or are negative. "
            "Pass outputs='logits'."
        )
    return int(first.shape[1])


def _log_probabilities(answers: NDArray[np.float64], outputs: str) -> NDArray[np.float64]:
    if outputs == "probabilities":
        # The smallest float64: a probability of 0 must stay the least, and finite.
        logs = np.log(np.maximum(answers, np.finfo(np.float64).tiny))
    else:
        logs = answers
    if logs.shape[1] == 1:
        logs = np.concatenate([np.zeros_like(logs), logs], axis=1)
    return np.asarray(functional.log_softmax(torch.from_numpy(logs), dim=1).numpy())


Handles: Mapping[Access, type[BlindTarget]] = {
    kind.access: kind
    for kind in (
        BlindTarget,
        LabelTarget,
        ScoreTarget,
        ShadowTarget,
        InternalsTarget,
        WeightsTarget,
    )
}
"""The handle of each level."""
