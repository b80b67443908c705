"""CPU time of a whole training step: plain SGD, ours, Opacus, in rotation in one process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping

import torch
from networks import Case, cases
from rows import Row, row
from torch import Tensor, nn
from torch.nn import functional

from reticent.training.dp_sgd.clipping import Flat
from reticent.training.dp_sgd.engine import Engine
from reticent.training.dp_sgd.noise import Noise, SecureNoise, SeededNoise

Step = Callable[[], None]
SIGMA, RATE = 1.0, 0.01


def per_example(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy per example, shape (B,); positions averaged."""
    losses = functional.cross_entropy(outputs.flatten(0, -2), targets.flatten(), reduction="none")
    return losses.view(len(targets), -1).mean(1)


def fresh(case: Case) -> nn.Module:
    """The network with the same weights every time."""
    torch.manual_seed(1)
    return case.build()


def plain(case: Case) -> Step:
    """SGD without protection."""
    model = fresh(case)
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=RATE)

    def step() -> None:
        optimiser.zero_grad()
        outputs = model(case.inputs)
        functional.cross_entropy(outputs.flatten(0, -2), case.targets.flatten()).backward()
        optimiser.step()

    return step


def ours(case: Case, noise: Noise) -> Step:
    """One step of DP-SGD on the engine."""
    model = fresh(case)
    engine, clipping = Engine(model), Flat(clip_norm=1.0)
    optimiser = torch.optim.SGD(engine.parameters, lr=RATE)
    size = len(case.inputs)

    def step() -> None:
        with engine.recording(size):
            batch = engine.backward(per_example(model(case.inputs), case.targets))
        factors = clipping.factors(batch.squared_norms(engine.groups()))[0]
        engine.fill(batch, factors.div_(size))
        noise.add_to(engine.flat, sigma=SIGMA / size, clip_norm=1.0 / size)
        engine.assign()
        optimiser.step()

    return step


def opacus(case: Case, mode: str) -> Step:
    """Opacus 1.6, grad-sample mode `mode`."""
    from opacus.grad_sample import GradSampleModule, GradSampleModuleFastGradientClipping
    from opacus.layers import DPLSTM
    from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
    from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping
    from opacus.validators import ModuleValidator

    model = fresh(case)
    if case.name == "lstm":
        model.lstm = DPLSTM(96, 256, batch_first=True)
    model = ModuleValidator.fix(model)
    inner = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=RATE)
    size = len(case.inputs)
    options = {"noise_multiplier": SIGMA, "max_grad_norm": 1.0, "expected_batch_size": size}
    if mode == "ghost":
        wrapped = GradSampleModuleFastGradientClipping(
            model, batch_first=True, max_grad_norm=1.0, use_ghost_clipping=True
        )
        optimiser = DPOptimizerFastGradientClipping(inner, **options)

        class Criterion(nn.Module):
            reduction = "mean"

            def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
                losses = per_example(outputs, targets)
                return losses if self.reduction == "none" else losses.mean()

        loss = DPLossFastGradientClipping(wrapped, optimiser, Criterion())

        def ghost_step() -> None:
            optimiser.zero_grad()
            loss(wrapped(case.inputs), case.targets).backward()
            optimiser.step()

        return ghost_step
    hooked = GradSampleModule(model, batch_first=True)
    optimiser = DPOptimizer(inner, **options)

    def step() -> None:
        optimiser.zero_grad()
        per_example(hooked(case.inputs), case.targets).mean().backward()
        optimiser.step()

    return step


def minima(steps: Mapping[str, Step], rounds: int) -> dict[str, float]:
    """Least CPU seconds of one step, over rounds in which the variants take turns."""
    best = dict.fromkeys(steps, float("inf"))
    for _ in range(rounds + 1):
        for name, step in steps.items():
            start = time.process_time()
            step()
            best[name] = min(best[name], time.process_time() - start)
    return best


def rows(*, quick: bool) -> Iterable[Row]:
    """Ours against plain SGD and Opacus, per network and as geometric means."""
    torch.set_num_threads(1)
    logs: dict[str, list[float]] = {}
    for case in cases():
        steps = {
            "plain": plain(case),
            "ours": ours(case, SeededNoise(1)),
            "ours secure": ours(case, SecureNoise()),
        }
        for mode in ("ghost",) if quick else ("ghost", "hooks"):
            try:
                steps[f"opacus {mode}"] = opacus(case, mode)
            except ImportError:
                continue
        count = 60 if case.name == "mlp" else 5 if quick else 15
        best = minima(steps, count)
        for rival, seconds in best.items():
            if rival == "ours":
                continue
            made = row(
                case.name,
                "CPU ms a step",
                best["ours"] * 1e3,
                seconds * 1e3,
                rival,
                unit="ms",
                n=count,
            )
            logs.setdefault(rival, []).append(made["ratio"])
            yield made
    for rival, ratios in logs.items():
        mean = float(torch.tensor(ratios).log().mean().exp())
        yield {
            "case": "all",
            "metric": "geometric mean of ratios",
            "ours": None,
            "rival": None,
            "rival_name": rival,
            "ratio": round(mean, 3),
            "unit": "",
            "n": len(ratios),
        }
