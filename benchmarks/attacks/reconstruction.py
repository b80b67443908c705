"""Training records rebuilt and models inverted: exactness, decibels, CPU seconds.

Rivals: DLG as published (torch's L-BFGS on all pixels, no box, label given), and ART's MIFace
where the Adversarial Robustness Toolbox can be imported.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from rows import Row, row
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from torch import nn
from torch.nn import functional

from reticent.attacks.inversion.ascent import ConfidenceAscent
from reticent.attacks.inversion.generator import GenerativeInversion
from reticent.attacks.reconstruction.gradient_matching import GradientMatching
from reticent.attacks.reconstruction.gradients import FullyConnectedInversion, Update
from reticent.attacks.reconstruction.informed import last_record, read_model
from reticent.attacks.reconstruction.stored_records import StoredRecords
from reticent.attacks.target import Victim
from reticent.audit.rebuilt import pair
from reticent.audit.similarity import psnr
from reticent.data.embedded import mnist5k
from reticent.random import seeded


def rows(*, quick: bool) -> Iterable[Row]:
    """The cases one after the other."""
    task = mnist5k(public="digit")
    x, y = task.x, task.public
    yield from _fully_connected(x, y, quick)
    yield from _matching(x, y, quick)
    yield from _informed(x, y, quick)
    yield from _stored(x, y, quick)
    yield from _inversion(x, y, quick)


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    start = time.process_time()
    made = work()
    return made, time.process_time() - start


def _fully_connected(x: np.ndarray, y: np.ndarray, quick: bool) -> Iterable[Row]:
    torch.manual_seed(0)
    layers = (nn.Linear(784, 400), nn.ReLU(), nn.Linear(400, 100), nn.ReLU(), nn.Linear(100, 10))
    target = Victim.of_module(nn.Sequential(nn.Flatten(), *layers).eval(), sample=x).at_weights()
    fitted = FullyConnectedInversion().fit(target)
    rng = seeded(0, 11)
    for batch, count in ((1, 50), (4, 10), (8, 5 if quick else 20), (12, 2 if quick else 10)):
        drawn = [rng.choice(len(x), batch, replace=False) for _ in range(count)]
        sent = [Update(gradients=target.gradients(x[at], y[at]), batch=batch) for at in drawn]
        found, spent = _timed(lambda sent=sent: fitted.score(target, sent))
        errors = [
            float(((pair(one.x, x[at]) - x[at].reshape(batch, -1)) ** 2).mean(axis=1).max())
            if len(one.x)
            else np.inf
            for one, at in zip(found, drawn, strict=True)
        ]
        case = f"gradient of a ReLU MLP, batch {batch}"
        exact = float(np.mean([error < 1e-12 for error in errors]))
        note = {"unit": "share", "n": count, "higher": True}
        yield row(case, "updates rebuilt to MSE < 1e-12", exact, None, "", **note)
        worst = f"{np.max([error for error in errors if np.isfinite(error)]):.1e}"
        yield row(case, "CPU per update", spent / count, None, "", unit="s", n=count, worst=worst)


def _convolutional(activation: type[nn.Module], *, wide: bool = False) -> nn.Module:
    """DLG's LeNet; `wide` draws all weights from -0.5..0.5 as its authors do."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 12, 5, padding=2, stride=2),
        activation(),
        nn.Conv2d(12, 12, 5, padding=2, stride=2),
        activation(),
        nn.Conv2d(12, 12, 5, padding=2),
        activation(),
        nn.Flatten(),
        nn.Linear(588, 10),
    ).eval()
    if wide:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.uniform_(-0.5, 0.5)
    return model


def _matching(x: np.ndarray, y: np.ndarray, quick: bool) -> Iterable[Row]:
    picked = seeded(0, 12).choice(len(x), 3 if quick else 10, replace=False)
    n = len(picked)
    for wide in (True, False):
        yield from _smooth(x, y, picked, wide)
    target = Victim.of_module(_convolutional(nn.ReLU), sample=x).at_weights()
    sent = [Update(gradients=target.gradients(x[[at]], y[[at]])) for at in picked]
    fitted = GradientMatching(objective="cosine", starts=1).fit(target)
    found, spent = _timed(lambda: fitted.score(target, sent))
    mine = psnr(np.concatenate([one.x for one in found]), x[picked], data_range=1.0)
    means = np.stack([x[y == y[at]].mean(axis=0) for at in picked])
    floor = psnr(means, x[picked], data_range=1.0)
    case = "gradient of a ReLU CNN, one digit"
    yield row(
        case,
        "median PSNR",
        float(np.median(mine)),
        float(np.median(floor)),
        "the class mean",
        unit="dB",
        n=n,
        higher=True,
        worst=round(float(mine.min()), 1),
    )
    yield row(case, "CPU per record", spent / n, None, "", unit="s", n=n)


def _smooth(x: np.ndarray, y: np.ndarray, picked: np.ndarray, wide: bool) -> Iterable[Row]:
    target = Victim.of_module(_convolutional(nn.Sigmoid, wide=wide), sample=x).at_weights()
    sent = [Update(gradients=target.gradients(x[[at]], y[[at]])) for at in picked]
    fitted = GradientMatching().fit(target)
    found, spent = _timed(lambda: fitted.score(target, sent))
    mine = psnr(np.concatenate([one.x for one in found]), x[picked], data_range=1.0)
    published, theirs = _timed(
        lambda: np.stack([_published(target.model, x[[at]], y[[at]]) for at in picked])
    )
    rival = psnr(published[:, 0], x[picked], data_range=1.0)
    n = len(picked)
    name = "DLG as published"
    start = "DLG's" if wide else "PyTorch's"
    case = f"gradient of a sigmoid CNN, one digit, {start} initial weights"
    yield row(
        case,
        "median PSNR",
        float(np.median(mine)),
        float(np.median(rival)),
        name,
        unit="dB",
        n=n,
        higher=True,
        worst=round(float(mine.min()), 1),
        rival_worst=round(float(rival.min()), 1),
    )
    yield row(case, "CPU per record", spent / n, theirs / n, name, unit="s", n=n)


def _published(model: nn.Module, record: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Zhu, Liu and Han 2019, Algorithm 1, with the label given: normal start, 30 times 20 steps."""
    parameters = list(model.parameters())
    wanted = torch.from_numpy(label)

    def gradient(x: torch.Tensor, **more: bool) -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(functional.cross_entropy(model(x), wanted), parameters, **more)

    observed = gradient(torch.from_numpy(record))
    start = seeded(0, 13).standard_normal(record.shape).astype(np.float32)
    guess = torch.from_numpy(start).requires_grad_()
    optimiser = torch.optim.LBFGS([guess], lr=1.0)

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        made = gradient(guess, create_graph=True)
        pairs = zip(made, observed, strict=True)
        apart = torch.stack([((a - b) ** 2).sum() for a, b in pairs]).sum()
        (guess.grad,) = torch.autograd.grad(apart, guess)
        return apart

    for _ in range(30):
        optimiser.step(closure)
        if not torch.isfinite(guess).all():
            break
    return guess.detach().nan_to_num().numpy()


def _informed(x: np.ndarray, y: np.ndarray, quick: bool) -> Iterable[Row]:
    count, asked = 600, 20 if quick else 100
    order = seeded(0, 14).permutation(len(x))[:count]
    flat, labels = x[order].reshape(count, -1).astype(np.float64), y[order]
    models = {
        "softmax regression at its optimum": LogisticRegression(
            solver="newton-cg", tol=1e-12, max_iter=1000
        ),
        "softmax regression, default tolerance": LogisticRegression(),
        "ridge classifier": RidgeClassifier(),
    }
    for name, model in models.items():
        read = read_model(model.fit(flat, labels))

        def attack(read: Any = read) -> list[Any]:
            rest = np.arange(count)
            return [last_record(read, flat[rest != at], labels[rest != at]) for at in range(asked)]

        found, spent = _timed(attack)
        errors = [float(np.abs(one.x - flat[at]).max()) for at, one in enumerate(found)]
        case = f"last record of a {name}"
        exact = float(np.mean([error < 1e-6 for error in errors]))
        worst = f"{max(errors):.1e}"
        note = {"unit": "share", "n": asked, "higher": True, "worst": worst}
        yield row(case, "records exact to 1e-6", exact, None, "", **note)
        yield row(case, "CPU per record", spent / asked, None, "", unit="s", n=asked)


def _stored(x: np.ndarray, y: np.ndarray, quick: bool) -> Iterable[Row]:
    count = 500 if quick else 2000
    flat = x.reshape(len(x), -1)
    order = seeded(0, 15).permutation(len(x))
    mine, others = order[:count], order[count : 2 * count]
    models = {
        "SVC": SVC(),
        "nearest neighbours": KNeighborsClassifier(),
        "scaled SVC": make_pipeline(StandardScaler(), SVC()),
    }
    for name, model in models.items():
        target = Victim.of_estimator(model.fit(flat[mine], y[mine]), sample=x[:8]).at_weights()
        start = time.process_time()
        fitted = StoredRecords().fit(target)
        found = float(fitted.score(target, x[mine]).mean())
        spent = time.process_time() - start
        false = float(fitted.score(target, x[others]).mean())
        case = f"stored records, {name}"
        note = {"unit": "share", "n": count, "higher": True, "non_members": false}
        yield row(case, "training records read", found, None, "", **note)
        yield row(case, "CPU", spent, None, "", unit="s", n=count)


def _inversion(x: np.ndarray, y: np.ndarray, quick: bool) -> Iterable[Row]:
    """Digits 0 to 4 are private, 5 to 9 public, as in Chen et al. 2021."""
    private = seeded(0, 16).permutation(np.flatnonzero(y < 5))
    public = x[y >= 5]
    cut = len(private) // 2
    model = _trained(x[private[:cut]], y[private[:cut]])
    flat = x[private[cut:]].reshape(len(private) - cut, -1)
    judge = SVC(C=5.0).fit(flat, y[private[cut:]])
    classes = np.repeat(np.arange(5), 4)
    means = np.stack([x[private[cut:]][y[private[cut:]] == c].mean(axis=0) for c in range(5)])
    target = Victim.of_module(model, sample=x).at_weights()
    rival = _miface(model, public)
    for attack in (ConfidenceAscent(), GenerativeInversion()):
        images, spent = _timed(
            lambda attack=attack: attack.fit(target, public).score(target, classes)
        )
        case = f"{attack.spec.name}, digits 0-4 from 5-9"
        mine = float((judge.predict(images.reshape(len(images), -1)) == classes).mean())
        theirs = None if rival is None else rival[0].reshape(5, -1)
        hits = None if theirs is None else float((judge.predict(theirs) == np.arange(5)).mean())
        name = "" if rival is None else "ART MIFace"
        note = {"n": 5, "higher": True}
        yield row(case, "judge's accuracy", mine, hits, name, unit="share", **note)
        alike = _correlation(images, means[classes])
        other = None if rival is None else _correlation(rival[0], means)
        yield row(case, "correlation with the class mean", alike, other, name, unit="", **note)
        cost = None if rival is None else rival[1] / 5
        yield row(case, "CPU per picture", spent / len(classes), cost, name, unit="s", n=20)


def _trained(x: np.ndarray, y: np.ndarray) -> nn.Module:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 5))
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    images, labels = torch.from_numpy(x), torch.from_numpy(y)
    for _ in range(15):
        for part in torch.randperm(len(x)).split(64):
            optimiser.zero_grad()
            functional.cross_entropy(model(images[part]), labels[part]).backward()
            optimiser.step()
    return model.eval()


def _correlation(images: np.ndarray, means: np.ndarray) -> float:
    pairs = zip(images.reshape(len(images), -1), means.reshape(len(means), -1), strict=True)
    return float(np.mean([np.corrcoef(a, b)[0, 1] for a, b in pairs]))


def _miface(model: nn.Module, public: np.ndarray) -> tuple[np.ndarray, float] | None:
    try:
        from art.attacks.inference.model_inversion import MIFace
        from art.estimators.classification import PyTorchClassifier
    except ImportError:
        return None
    wrapped = PyTorchClassifier(
        model,
        loss=nn.CrossEntropyLoss(),
        input_shape=public.shape[1:],
        nb_classes=5,
        clip_values=(0, 1),
    )
    attack = MIFace(wrapped, max_iter=1000, threshold=1.0, verbose=False)
    start = np.repeat(public.mean(axis=0)[None], 5, axis=0)
    images, spent = _timed(lambda: attack.infer(start, np.arange(5)))
    return images, spent
