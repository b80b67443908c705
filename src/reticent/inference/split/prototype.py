"""Methods that pull every input to the prototype of its public label.

`prototype_code`: center loss in C - 1 dimensions, then the client sends the index of the nearest
prototype. `adapter_code`: the deployed model stays frozen, a small distilled adapter at the cut
answers, and the client sends the answer's index. `center_noise`: center loss and Gaussian noise of
fixed absolute scale, trained through, with a radius that makes the bound hold for every input.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from reticent.data.task import Kind
from reticent.errors import ConfigError
from reticent.inference.split.certificate import radius_for
from reticent.inference.split.halves import STYLES, Halves, neck
from reticent.inference.split.objectives import simplex
from reticent.inference.split.problem import Problem
from reticent.inference.split.release import Code, Noisy
from reticent.models.networks import Rescale
from reticent.training.plain import descend, forward

# Classes are this many noise standard deviations apart, so that noise alone flips one answer
# in about 16,000 (Phi(-4) per neighbour).
SEPARATION = 8.0
# Logit gap between neighbouring prototypes when a feature sits on one of them.
_GAP = 20.0
# Default weight of the center loss, in units of the separation: the same at any noise scale.
PULL = 1.0
_HEAD_STEPS = 200


@dataclass(frozen=True, kw_only=True)
class Prototypes:
    """Where each answer's features belong: a simplex for classes, a line for regression."""

    points: Tensor
    values: Tensor | None = None

    @classmethod
    def of(cls, problem: Problem, *, separation: float = SEPARATION) -> Prototypes:
        """Prototypes of the problem's answers, shape (levels, d)."""
        answers = problem.answers
        if answers.kind is Kind.REGRESSION:
            assert answers.values is not None
            line = separation * torch.arange(answers.levels, dtype=torch.float32)
            return cls(points=line[:, None], values=torch.from_numpy(answers.values))
        return cls(points=simplex(answers.levels, separation=separation))

    def target(self, labels: Tensor) -> Tensor:
        """Where the features of these true labels belong, shape (batch, d)."""
        if self.values is None:
            chosen: Tensor = self.points[labels]
            return chosen
        step = self.values[1] - self.values[0]
        place = (labels - self.values[0]) / step
        spacing = self.points[1] - self.points[0]
        wanted: Tensor = place.clamp(-0.5, len(self.points) - 0.5)[:, None] * spacing
        return wanted

    def logits(self, features: Tensor) -> Tensor:
        """Scores (batch, levels) whose argmax is the nearest prototype."""
        beta = 2 * _GAP / self.separation**2
        squared = self.points.square().sum(dim=1)
        scores: Tensor = beta * (features @ self.points.T - 0.5 * squared)
        return scores

    def away(self, features: Tensor, labels: Tensor) -> Tensor:
        """The center loss: mean squared distance to the target, in squared separations."""
        squared = (features - self.target(labels)).square().sum(dim=1)
        loss: Tensor = squared.mean() / self.separation**2
        return loss

    @property
    def separation(self) -> float:
        """Distance between neighbouring prototypes."""
        return float((self.points[1] - self.points[0]).norm())

    def rescale(self) -> Rescale:
        """Unit-scale numbers to the prototypes' scale, so that few steps reach them."""
        return Rescale(float(self.points.std()), float(self.points.mean()))

    def fit_loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """Loss that puts features at the right prototype: cross-entropy, or error in levels."""
        if self.values is None:
            return functional.cross_entropy(self.logits(features), labels)
        return self.away(features, labels)


def adapter_code(problem: Problem) -> Halves:
    """Frozen first blocks, a distilled adapter, a code: the default without re-training.

    Options: `neck` ("linear", "mlp", "conv", "separable"), `width`, `hidden` to fix the adapter;
    by default it is the largest of a short list that keeps the client half within
    `max_client_share`. `labels` ("true", or "model": the deployed model's own answers, so that
    the training records need no labels; the default for regression).
    """
    prototypes = Prototypes.of(problem)
    encoder = _fit(problem, prototypes, freeze=True, pull=0.0)
    return _coded(problem, encoder, prototypes)


def prototype_code(problem: Problem) -> Halves:
    """Center loss, then the index of the nearest prototype: the default with re-training.

    Options: those of `adapter_code`, and `pull` (weight of the center loss).
    """
    if not problem.retrain:
        raise ConfigError(
            "prototype_code re-trains the encoder, but retrain=False. Use method='adapter_code'."
        )
    prototypes = Prototypes.of(problem)
    pull = float(problem.options.get("pull", PULL))
    return _coded(problem, _fit(problem, prototypes, freeze=False, pull=pull), prototypes)


def center_noise(problem: Problem) -> Halves:
    """Center loss with Gaussian noise of fixed absolute scale, and a radius around prototypes.

    Options: `total_variation` (worst-case bound per `requests` pooled requests; sets the radius),
    `requests` (8), `sigma` (1.0 absolute), `separation` (8 sigma), `pull`, `neck`,
    `radius` ("none" leaves an average-case certificate only).
    """
    options = problem.options
    sigma = float(options.get("sigma", 1.0))
    separation = float(options.get("separation", SEPARATION)) * sigma
    bound = float(options.get("total_variation", 0.10))
    requests = int(options.get("requests", 8))
    if not (0 < bound < 1 and sigma > 0 and separation > 0 and requests >= 1):
        raise ConfigError(
            "center_noise expects 0 < total_variation < 1, sigma > 0, separation > 0 and "
            f"requests >= 1, got {bound}, {sigma}, {separation}, {requests}."
        )
    prototypes = Prototypes.of(problem, separation=separation)
    pull = float(options.get("pull", PULL))
    encoder = _fit(problem, prototypes, freeze=not problem.retrain, pull=pull)
    bounded = options.get("radius", "auto") != "none"
    release = Noisy(
        scale=np.asarray([sigma], dtype=np.float32),
        size=prototypes.points.shape[1],
        prototypes=prototypes.points.numpy(),
        radius=radius_for(bound, sigma=sigma, requests=requests) if bounded else None,
    )
    head = _fit_head(problem, encoder, prototypes, sigma=sigma)
    return Halves(encoder=encoder, release=release, head=head, answers=problem.answers)


def _coded(problem: Problem, encoder: nn.Module, prototypes: Prototypes) -> Halves:
    release = _code(problem, encoder, prototypes)
    table = _teacher_table(problem, encoder, release)
    return Halves(
        encoder=encoder,
        release=release,
        head=nn.Identity(),
        answers=problem.answers,
        table=table,
    )


@dataclass(frozen=True, kw_only=True)
class _Neck:
    """An adapter's architecture: its style, channels per layer, hidden units."""

    style: str
    width: int = 32
    hidden: int = 32


# By growing cost. A small hidden layer is never what limits a cut over flat features.
_SPATIAL = (
    _Neck(style="conv", width=16, hidden=32),
    _Neck(style="conv", width=32, hidden=64),
    _Neck(style="conv", width=64, hidden=64),
)
_FLAT = (_Neck(style="linear"), _Neck(style="mlp", hidden=32), _Neck(style="mlp", hidden=64))


def _neck(problem: Problem, shape: tuple[int, ...], size: int) -> _Neck:
    """The adapter asked for, else the largest that fits the client's share, else the smallest."""
    options = problem.options
    asked = options.get("neck")
    if asked is not None:
        if asked not in STYLES or (asked in ("conv", "separable") and len(shape) == 1):
            raise ConfigError(
                f"Expected neck among {STYLES} (conv and separable need spatial features), got "
                f"neck={asked!r} for features of shape {shape}."
            )
        width, hidden = int(options.get("width", 32)), int(options.get("hidden", 64))
        return _Neck(style=str(asked), width=width, hidden=hidden)
    choices = _FLAT if len(shape) == 1 else _SPATIAL
    encoder, _ = problem.halves()
    already = problem.flops_share(encoder)
    if already >= problem.max_client_share:
        # The cut itself is over the limit: the adapter's cost no longer decides.
        return choices[-1]
    fitting = [
        choice
        for choice in choices
        if problem.flops_share(nn.Sequential(encoder, _made(choice, shape, size)))
        <= problem.max_client_share
    ]
    return fitting[-1] if fitting else choices[0]


def _made(choice: _Neck, shape: tuple[int, ...], size: int) -> nn.Module:
    return neck(shape, size, style=choice.style, width=choice.width, hidden=choice.hidden)


def _fit(problem: Problem, prototypes: Prototypes, *, freeze: bool, pull: float) -> nn.Module:
    """Train neck (and encoder unless `freeze`) towards the prototypes, distilling the model.

    The model is a patient teacher (Beyer et al. 2022): it answers the very inputs that the
    student sees, shifted mixtures that never repeat (Zhang et al. 2018), for many steps.
    """
    torch.manual_seed(problem.seed)
    generator = torch.Generator().manual_seed(problem.seed)
    encoder, rest = problem.halves()
    encoder.requires_grad_(not freeze)
    shape = problem.feature_shape()
    size = prototypes.points.shape[1]
    made = _made(_neck(problem, shape, size), shape, size)
    adapter = nn.Sequential(made, prototypes.rescale())
    network = nn.Sequential(encoder, *adapter)
    teacher = nn.Sequential(problem.halves()[0], rest).eval().requires_grad_(False)
    x = torch.from_numpy(problem.train.x)
    y = _labels(problem, teacher)

    def loss(rows: Tensor) -> Tensor:
        clean = x[rows]
        mixed = _view(clean, generator)
        both = torch.cat([clean, mixed])
        with torch.no_grad():
            crossed = teacher[0](both if freeze else mixed)
            opinion = teacher[1](crossed[-len(rows) :])
        # A frozen encoder is the teacher's: what crosses the cut is computed once for both.
        features = adapter(crossed) if freeze else network(both)
        return _distil(features, opinion, prototypes, y[rows], pull)

    groups = [{"params": list(made.parameters()), "lr": 2 * problem.learning_rate}]
    if not freeze:
        groups.append({"params": list(encoder.parameters()), "lr": problem.learning_rate})
    descend(
        network,
        groups,
        loss=loss,
        count=len(x),
        epochs=problem.epochs,
        batch_size=problem.batch_size,
        generator=generator,
        frozen=[encoder] if freeze else [],
        progress=problem.progress,
    )
    return network.requires_grad_(False)


def _view(x: Tensor, generator: torch.Generator) -> Tensor:
    """Inputs that never repeat: each mixed with another of the batch, all shifted alike.

    At least half of each is itself. Series and images move by up to an eighth of each side, their
    borders repeated. The teacher answers the same view, so nothing need be invariant to this.
    """
    share = 0.5 + 0.5 * torch.rand(len(x), generator=generator)
    share = share.reshape(-1, *[1] * (x.ndim - 1))
    view = share * x + (1 - share) * x[torch.randperm(len(x), generator=generator)]
    for axis in range(2, x.ndim):
        side = x.shape[axis]
        moved = int(torch.randint(-(side // 8), side // 8 + 1, (1,), generator=generator))
        view = view.index_select(axis, (torch.arange(side) + moved).clamp(0, side - 1))
    return view


def _distil(
    features: Tensor, opinion: Tensor, prototypes: Prototypes, y: Tensor, pull: float
) -> Tensor:
    """True labels of clean inputs, the teacher's opinion on mixed ones, and the pull.

    `features` (2 batch, d) of the clean inputs and then the mixed ones.
    """
    of_clean, of_mixed = features.split(len(y))
    loss = prototypes.fit_loss(of_clean, y)
    if pull > 0:
        loss = loss + pull * prototypes.away(of_clean, y)
    if prototypes.values is not None:
        return loss + prototypes.fit_loss(of_mixed, opinion[:, 0])
    said = functional.log_softmax(prototypes.logits(of_mixed), dim=1)
    return loss + functional.kl_div(said, functional.softmax(opinion, dim=1), reduction="batchmean")


def _labels(problem: Problem, teacher: nn.Module) -> Tensor:
    """What the clean training records are to be answered: their labels, or the model's answer."""
    regression = problem.answers.kind is Kind.REGRESSION
    # Real-valued labels carry noise that long training learns by heart; the model's answers don't.
    source = problem.options.get("labels", "model" if regression else "true")
    if source not in ("true", "model"):
        raise ConfigError(f"Expected labels='true' or 'model', got labels={source!r}.")
    if source == "model":
        outputs = forward(teacher, torch.from_numpy(problem.train.x))
        return outputs[:, 0] if regression else outputs.argmax(dim=1)
    return torch.as_tensor(
        np.asarray(problem.train.public), dtype=torch.float32 if regression else torch.int64
    )


def _code(problem: Problem, encoder: nn.Module, prototypes: Prototypes) -> Code:
    """One code per answer, or K > C codes: k-means within each class, as opted into."""
    levels = problem.answers.levels
    codes = problem.codes or levels
    points = prototypes.points.numpy()
    if codes == levels:
        return Code(prototypes=points, labels=np.arange(levels))
    if codes < levels or codes % levels or problem.answers.kind is Kind.REGRESSION:
        raise ConfigError(
            f"Expected codes to be a multiple of the {levels} classes, got codes={codes}. "
            "For regression give [task.options] levels instead."
        )
    from sklearn.cluster import KMeans

    features = forward(encoder, torch.from_numpy(problem.train.x)).numpy()
    nearest = Code(prototypes=points, labels=np.arange(levels)).nearest(features)
    rows, labels = [], []
    for level in range(levels):
        own = features[nearest == level]
        count = min(codes // levels, len(np.unique(own, axis=0)))
        means = KMeans(count, n_init=2, random_state=problem.seed).fit(own).cluster_centers_
        rows.append(means.astype(np.float32))
        labels += [level] * count
    return Code(prototypes=np.concatenate(rows), labels=np.asarray(labels, dtype=np.int64))


def _teacher_table(problem: Problem, encoder: nn.Module, code: Code) -> NDArray[np.float32]:
    """The deployed model's mean answer to the training inputs of each code, shape (K, o)."""
    x = torch.from_numpy(problem.train.x)
    codes = code.nearest(forward(encoder, x).numpy())
    outputs = forward(problem.teacher(), x)
    if problem.answers.kind is Kind.REGRESSION:
        assert problem.answers.values is not None
        # One answer's worth of the interval's middle steadies levels that few inputs reach.
        total = problem.answers.values[code.labels].astype(np.float64)
        np.add.at(total, codes, outputs[:, 0].numpy())
        count = 1 + np.bincount(codes, minlength=code.alphabet)
        return (total / count)[:, None].astype(np.float32)
    probabilities = outputs.softmax(dim=1).numpy()
    table = np.full((code.alphabet, problem.answers.levels), 1e-3, dtype=np.float64)
    np.add.at(table, codes, probabilities)
    table = np.log(table / table.sum(axis=1, keepdims=True))
    return _agree(table.astype(np.float32), code.labels)


def _agree(table: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.float32]:
    """`table` with each row's label made its strict maximum, so that label and answer agree."""
    made = table.copy()
    rows = np.arange(len(made))
    top = made.max(axis=1)
    wrong = made.argmax(axis=1) != labels
    made[rows[wrong], labels[wrong]] = top[wrong] + 1e-3
    return made


class _Posterior(nn.Module):
    """Probabilities of the prototypes given features with Gaussian noise (Bayes' rule)."""

    weight: Tensor
    bias: Tensor

    def __init__(self, points: Tensor, sigma: float) -> None:
        super().__init__()
        self.register_buffer("weight", points / sigma**2)
        self.register_buffer("bias", -0.5 * points.square().sum(dim=1) / sigma**2)

    def forward(self, sent: Tensor) -> Tensor:
        """Shapes: (batch, d) to (batch, levels)."""
        return functional.linear(sent, self.weight, self.bias).softmax(dim=1)


def _fit_head(
    problem: Problem, encoder: nn.Module, prototypes: Prototypes, *, sigma: float
) -> nn.Module:
    """The server half: which prototype was it, the features it stands for, the model's own rest.

    What arrives is a prototype and noise, so the best reading is the posterior over prototypes.
    It is lifted to a mean of features at the cut, which start as each prototype's mean in the
    deployed model and are then fitted, few numbers on few points, until the untouched second half
    of the model gives each prototype its answer.
    """
    torch.manual_seed(problem.seed + 1)
    generator = torch.Generator().manual_seed(problem.seed + 1)
    points = prototypes.points
    levels, shape = len(points), problem.feature_shape()
    first, rest = problem.halves()
    code = Code(prototypes=points.numpy(), labels=np.arange(levels))
    x = torch.from_numpy(problem.train.x)
    codes = torch.from_numpy(code.nearest(forward(encoder, x).numpy()))
    lift = nn.Linear(levels, int(np.prod(shape)), bias=False)
    means = _means(forward(first, x).flatten(1), codes, levels)
    lift.weight.data.copy_(means.T)
    wanted = torch.from_numpy(_teacher_table(problem, encoder, code))
    rest = rest.eval().requires_grad_(False)
    head = nn.Sequential(_Posterior(points, sigma), lift, nn.Unflatten(1, shape), rest)
    optimiser = torch.optim.Adam(lift.parameters(), lr=0.02 * float(means.std()) + 1e-4)
    for _ in range(_HEAD_STEPS):
        optimiser.zero_grad()
        noise = sigma * torch.randn(points.shape, generator=generator)
        loss = _head_loss(head(torch.cat([points, points + noise])), wanted.repeat(2, 1))
        loss.backward()
        optimiser.step()
    return head.eval().requires_grad_(False)


def _means(features: Tensor, codes: Tensor, levels: int) -> Tensor:
    """Mean features of each code, (levels, d); the overall mean where no record has the code."""
    total = torch.zeros(levels, features.shape[1]).index_add_(0, codes, features)
    count = torch.bincount(codes, minlength=levels)[:, None]
    return torch.where(count > 0, total / count.clamp(min=1), features.mean(dim=0))


def _head_loss(outputs: Tensor, wanted: Tensor) -> Tensor:
    """How far the answers at the prototypes are from the wanted ones, at unit scale."""
    if wanted.shape[1] == 1:
        return functional.mse_loss(outputs, wanted) / wanted.var().clamp(min=1e-9)
    truth = wanted.argmax(dim=1)
    sharp = functional.cross_entropy(outputs, truth)
    return sharp + functional.kl_div(
        outputs.log_softmax(dim=1), wanted.softmax(dim=1), reduction="batchmean"
    )
