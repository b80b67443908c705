"""The ways to harden: what runs, what it needs, which paper it comes from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from reticent.inference.sealed import method as sealed
from reticent.inference.split import finetuned, frozen, prototype
from reticent.inference.split.halves import Halves
from reticent.inference.split.problem import Problem


@dataclass(frozen=True, kw_only=True)
class Method:
    """A way to harden: what runs, what it needs, where it comes from.

    `grid` lists the strengths that a comparison tries before it judges the method; only baselines
    have one, since ours are compared as they come.
    """

    name: str
    run: Callable[[Problem], Halves]
    source: str
    retrains: bool
    sends_codes: bool = False
    options: tuple[str, ...] = ()
    needs_private: bool = False
    baseline: bool = True
    grid: tuple[Mapping[str, float], ...] = ()
    average_case: Callable[[Mapping[str, Any]], bool] = lambda options: False

    def certifies_on_average(self, options: Mapping[str, Any]) -> bool:
        """Whether with these options its certificate is an average that needs records apart."""
        return self.average_case(options)


def _grid(option: str, *values: float) -> tuple[Mapping[str, float], ...]:
    return tuple({option: value} for value in values)


METHODS: Mapping[str, Method] = {
    method.name: method
    for method in (
        Method(
            name="prototype_code",
            options=("neck", "width", "hidden", "labels", "pull"),
            run=prototype.prototype_code,
            source="center loss (Wen et al. 2016) with a one-code-per-label quantiser",
            retrains=True,
            sends_codes=True,
            baseline=False,
        ),
        Method(
            name="adapter_code",
            options=("neck", "width", "hidden", "labels"),
            run=prototype.adapter_code,
            source="distilled early exit (Hinton et al. 2015) with a one-code-per-label quantiser",
            retrains=False,
            sends_codes=True,
            baseline=False,
        ),
        Method(
            name="center_noise",
            options=(
                "total_variation",
                "requests",
                "sigma",
                "separation",
                "radius",
                "pull",
                "neck",
                "width",
                "hidden",
            ),
            run=prototype.center_noise,
            source="center loss (Wen et al. 2016) as the divergence bound of a Gaussian channel",
            retrains=True,
            average_case=lambda options: options.get("radius") == "none",
            baseline=False,
        ),
        Method(
            name="sealed",
            options=sealed.OPTIONS,
            run=sealed.sealed,
            source="CKKS (Cheon et al. 2017) on the part behind the cut",
            retrains=False,
            baseline=False,
        ),
        Method(
            name="center",
            options=("weight", "distance", "centers", "sigma"),
            run=finetuned.center,
            source="Wen et al. 2016",
            retrains=True,
            average_case=lambda options: float(options.get("sigma", 0.0)) > 0,
            grid=_grid("weight", 1.0, 10.0, 100.0),
        ),
        Method(
            name="ceb",
            options=("weight",),
            run=finetuned.ceb,
            source="Fischer 2020",
            retrains=True,
            average_case=lambda options: True,
            grid=_grid("weight", 1.0, 10.0, 100.0),
        ),
        Method(
            name="vib",
            options=("weight",),
            run=finetuned.vib,
            source="Alemi et al. 2017",
            retrains=True,
            grid=_grid("weight", 0.01, 0.1, 1.0),
        ),
        Method(
            name="noise",
            options=("sigma",),
            run=finetuned.noise,
            source="Osia et al. 2017",
            retrains=True,
            grid=_grid("sigma", 1.0, 2.0, 4.0),
        ),
        Method(
            name="supcon",
            options=("weight",),
            run=finetuned.supcon,
            source="Khosla et al. 2020",
            retrains=True,
            grid=_grid("weight", 0.1, 0.5, 2.0),
        ),
        Method(
            name="siamese",
            options=("weight", "sigma"),
            run=finetuned.siamese,
            source="Osia et al. 2017",
            retrains=True,
            grid=_grid("weight", 0.1, 1.0, 10.0),
        ),
        Method(
            name="nopeek",
            options=("weight",),
            run=finetuned.nopeek,
            source="Vepakomma et al. 2020",
            retrains=True,
            grid=_grid("weight", 0.5, 2.0, 8.0),
        ),
        Method(
            name="adversarial",
            options=("weight",),
            run=finetuned.adversarial,
            source="Roy & Boddeti 2019",
            retrains=True,
            grid=_grid("weight", 0.1, 1.0, 10.0),
            needs_private=True,
        ),
        Method(
            name="shredder",
            options=("weight",),
            run=frozen.shredder,
            source="Mireshghallah et al. 2020",
            retrains=False,
            grid=_grid("weight", 0.1, 0.3, 1.0),
        ),
        Method(
            name="nullspace",
            options=("tolerance",),
            run=frozen.nullspace,
            source="Samragh et al. 2021",
            retrains=False,
        ),
    )
}
