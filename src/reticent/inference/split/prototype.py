"""Methods that pull every input to the prototype of its public label.

`prototype_code`: center loss in C - 1 dimensions, then the client sends the index of the nearest
prototype. `adapter_code`: the deployed model stays frozen, a small distilled adapter at the cut
answers, and the client sends the answer's index. `center_noise`: center loss and Gaussian noise of
fixed absolute scale, trained through, with a radius that makes the bound hold for every input.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from reticent.data.answers import utility
from reticent.data.task import Kind
from reticent.errors import ConfigError
from reticent.inference.split.certificate import radius_for
from reticent.inference.split.halves import Contract, Halves, neck
from reticent.inference.split.objectives import simplex
from reticent.inference.split.problem import Problem
from reticent.inference.split.release import Code, Noisy
from reticent.training.plain import batches, forward

# Classes are this many noise standard deviations apart, so that noise alone flips one answer
# in about 16,000 (Phi(-4) per neighbour).
SEPARATION = 8.0
# Logit gap between neighbouring prototypes when a feature sits on one of them.
_GAP = 20.0
_NECKS: tuple[tuple[str, int, int], ...] = (
    ("mlp", 0, 32),
    ("conv", 16, 32),
    ("conv", 32, 64),
    ("conv", 64, 64),
)


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
        separation = (self.points[1] - self.points[0]).norm()
        beta = 2 * _GAP / separation**2
        squared = self.points.square().sum(dim=1)
        scores: Tensor = beta * (features @ self.points.T - 0.5 * squared)
        return scores

    def fit_loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """Loss that puts features at the right prototype: cross-entropy, or error in levels."""
        if self.values is None:
            return functional.cross_entropy(self.logits(features), labels)
        spacing = (self.points[1] - self.points[0]).norm()
        error: Tensor = ((features - self.target(labels)) / spacing).square().mean()
        return error


def adapter_code(problem: Problem) -> Halves:
    """Frozen first blocks, a distilled adapter, a code: the default without re-training.

    Adapters of growing size are tried while the client half stays within `max_client_share`; the
    best on the validation part is kept. Options: `neck` ("linear", "mlp", "conv") to fix one.
    """
    prototypes = Prototypes.of(problem)
    candidates = [
        _fit(problem, prototypes, style, freeze=True, pull=0.0) for style in _styles(problem)
    ]
    best = max(candidates, key=lambda fitted: fitted.score)
    release = _code(problem, best.encoder, prototypes)
    return Halves(
        encoder=best.encoder,
        release=release,
        head=nn.Identity(),
        answers=problem.answers,
        table=_teacher_table(problem, best.encoder, release),
    )


def prototype_code(problem: Problem) -> Halves:
    """Center loss, then the index of the nearest prototype: the default with re-training.

    Options: `pull` (weight of the center loss), `neck`.
    """
    if not problem.retrain:
        raise ConfigError(
            "prototype_code re-trains the encoder, but retrain=False. Use method='adapter_code'."
        )
    prototypes = Prototypes.of(problem)
    pull = float(problem.options.get("pull", 0.05))
    candidates = [
        _fit(problem, prototypes, style, freeze=False, pull=pull) for style in _styles(problem)
    ]
    best = max(candidates, key=lambda fitted: fitted.score)
    release = _code(problem, best.encoder, prototypes)
    head = _fit_head(problem, best.encoder, prototypes, noise=None)
    points = torch.from_numpy(release.prototypes)
    table = forward(head, points).numpy()
    if problem.answers.kind is not Kind.REGRESSION:
        table = _agree(table, release.labels)
    return Halves(
        encoder=best.encoder, release=release, head=head, answers=problem.answers, table=table
    )


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
    pull = float(options.get("pull", 0.05))
    candidates = [
        _fit(problem, prototypes, style, freeze=not problem.retrain, pull=pull)
        for style in _styles(problem)
    ]
    best = max(candidates, key=lambda fitted: fitted.score)
    bounded = options.get("radius", "auto") != "none"
    release = Noisy(
        scale=np.asarray([sigma], dtype=np.float32),
        size=prototypes.points.shape[1],
        prototypes=prototypes.points.numpy(),
        radius=radius_for(bound, sigma=sigma, requests=requests) if bounded else None,
    )
    head = _fit_head(problem, best.encoder, prototypes, noise=release)
    return Halves(encoder=best.encoder, release=release, head=head, answers=problem.answers)


@dataclass(frozen=True, kw_only=True)
class _Fitted:
    encoder: nn.Module
    score: float


def _styles(problem: Problem) -> list[tuple[str, int, int]]:
    """Adapters that fit the client's share: the smallest and the largest two, or the one asked."""
    shape = problem.feature_shape()
    asked = problem.options.get("neck")
    if asked is not None:
        if asked not in ("linear", "mlp", "conv"):
            raise ConfigError(f"Expected neck among linear, mlp, conv, got neck={asked!r}.")
        return [(str(asked), int(problem.options.get("width", 32)), 64)]
    if len(shape) == 1:
        return [("linear", 0, 0), ("mlp", 0, 32)]
    fitting = [style for style in _NECKS if _share(problem, style) <= problem.max_client_share]
    return fitting[-2:] or [("linear", 0, 0)]


def _share(problem: Problem, style: tuple[str, int, int]) -> float:
    encoder, _ = problem.halves()
    return problem.flops_share(_with_neck(problem, encoder, style, 2))


def _with_neck(
    problem: Problem, encoder: nn.Module, style: tuple[str, int, int], size: int
) -> nn.Sequential:
    name, width, hidden = style
    made = neck(problem.feature_shape(), size, style=name, width=width or 32, hidden=hidden or 32)
    return nn.Sequential(encoder, made)


def _fit(
    problem: Problem,
    prototypes: Prototypes,
    style: tuple[str, int, int],
    *,
    freeze: bool,
    pull: float,
) -> _Fitted:
    """Train neck (and encoder unless `freeze`) towards the prototypes, distilling the model."""
    torch.manual_seed(problem.seed)
    generator = torch.Generator().manual_seed(problem.seed)
    encoder, _ = problem.halves()
    network = _with_neck(problem, encoder, style, prototypes.points.shape[1])
    encoder.requires_grad_(not freeze)
    teacher = problem.teacher()
    groups = [{"params": network[1].parameters(), "lr": 2 * problem.learning_rate}]
    if not freeze:
        groups.append({"params": network[0].parameters(), "lr": problem.learning_rate})
    optimiser = torch.optim.AdamW(groups, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, problem.epochs)
    x, y = torch.from_numpy(problem.train.x), _labels(problem, problem.train.public)
    best, best_state = -math.inf, copy.deepcopy(network.state_dict())
    for epoch in range(problem.epochs):
        network.train()
        network[0].train(not freeze)
        for rows in batches(len(x), problem.batch_size, generator):
            optimiser.zero_grad()
            loss = _distil(network, teacher, prototypes, x[rows], y[rows], pull, generator)
            loss.backward()
            optimiser.step()
        schedule.step()
        score = _score(problem, network, prototypes)
        if score >= best:
            best, best_state = score, copy.deepcopy(network.state_dict())
        if problem.progress is not None:
            problem.progress((epoch + 1) / problem.epochs)
    network.load_state_dict(best_state)
    return _Fitted(encoder=network.eval().requires_grad_(False), score=best)


def _distil(
    network: nn.Module,
    teacher: nn.Module,
    prototypes: Prototypes,
    x: Tensor,
    y: Tensor,
    pull: float,
    generator: torch.Generator,
) -> Tensor:
    """True labels, the teacher's opinion on mixed inputs (Zhang et al. 2018), and the pull."""
    features = network(x)
    loss = prototypes.fit_loss(features, y)
    if pull > 0:
        away = (features - prototypes.target(y)).square().sum(dim=1)
        loss = loss + pull * away.mean()
    share = 0.5 + 0.5 * torch.rand(len(x), generator=generator)
    share = share.reshape(-1, *[1] * (x.ndim - 1))
    mixed = share * x + (1 - share) * x[torch.randperm(len(x), generator=generator)]
    with torch.no_grad():
        opinion = teacher(mixed)
    if prototypes.values is not None:
        return loss + prototypes.fit_loss(network(mixed), opinion[:, 0])
    said = functional.log_softmax(prototypes.logits(network(mixed)), dim=1)
    return loss + functional.kl_div(said, functional.softmax(opinion, dim=1), reduction="batchmean")


def _score(problem: Problem, network: nn.Module, prototypes: Prototypes) -> float:
    """Utility on the validation part when each input is answered by its nearest prototype."""
    features = forward(network, torch.from_numpy(problem.validation.x))
    if prototypes.values is None:
        outputs = prototypes.logits(features).numpy()
    else:
        outputs = prototypes.values[prototypes.logits(features).argmax(dim=1)][:, None].numpy()
    return utility(problem.answers.kind, outputs, problem.validation.public)


def _labels(problem: Problem, public: NDArray[np.generic]) -> Tensor:
    if problem.answers.kind is Kind.REGRESSION:
        return torch.as_tensor(np.asarray(public), dtype=torch.float32)
    return torch.as_tensor(np.asarray(public), dtype=torch.int64)


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
    if problem.answers.kind is Kind.REGRESSION:
        assert problem.answers.values is not None
        return problem.answers.values[code.labels][:, None]
    x = torch.from_numpy(problem.train.x)
    codes = code.nearest(forward(encoder, x).numpy())
    probabilities = forward(problem.teacher(), x).softmax(dim=1).numpy()
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


def _fit_head(
    problem: Problem, encoder: nn.Module, prototypes: Prototypes, *, noise: Noisy | None
) -> nn.Module:
    """The server half: a lift from prototype space to the cut, then the model's own second half.

    Trained on features as they are released: pulled to their prototypes, with noise.
    """
    torch.manual_seed(problem.seed + 1)
    generator = torch.Generator().manual_seed(problem.seed + 1)
    shape = problem.feature_shape()
    lift = nn.Sequential(
        nn.Linear(prototypes.points.shape[1], int(np.prod(shape))), nn.Unflatten(1, shape)
    )
    head = nn.Sequential(lift, problem.halves()[1])
    pull = _released(prototypes, noise)
    sigma = 0.0 if noise is None else noise.sigma
    features = pull(forward(encoder, torch.from_numpy(problem.train.x)))
    y = _labels(problem, problem.train.public)
    scale = 1.0 if prototypes.values is None else float(y.var().clamp(min=1e-9))
    optimiser = torch.optim.AdamW(head.parameters(), lr=problem.learning_rate)
    epochs = max(3, problem.epochs // 2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs)
    for _ in range(epochs):
        head.train()
        _freeze_norms(head)
        for rows in batches(len(y), problem.batch_size, generator):
            optimiser.zero_grad()
            clean = features[rows]
            sent = clean + sigma * torch.randn(clean.shape, generator=generator)
            _head_loss(head, sent, y[rows], prototypes, scale).backward()
            optimiser.step()
        schedule.step()
    return head.eval().requires_grad_(False)


def _released(prototypes: Prototypes, noise: Noisy | None) -> nn.Module:
    """What the server will see of clean features before noise."""
    if noise is not None and noise.radius is None:
        return nn.Identity()
    return Contract(prototypes.points, 0.0 if noise is None else float(noise.radius or 0.0))


def _head_loss(
    head: nn.Module, sent: Tensor, y: Tensor, prototypes: Prototypes, scale: float
) -> Tensor:
    points = prototypes.points
    if prototypes.values is not None:
        error = (head(sent)[:, 0] - y).square().mean()
        on_points = (head(points)[:, 0] - prototypes.values).square().mean()
        both: Tensor = (error + on_points) / scale
        return both
    own = functional.cross_entropy(head(points), torch.arange(len(points)))
    loss: Tensor = functional.cross_entropy(head(sent), y) + own
    return loss


def _freeze_norms(module: nn.Module) -> None:
    """Keep BatchNorm at its running statistics: a handful of prototypes has no population."""
    for child in module.modules():
        if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            child.eval()
