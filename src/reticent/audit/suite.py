"""The attacks on a finished model: which there are, which can run, and what they found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from reticent.attacks.finding import Finding
from reticent.attacks.spec import Access
from reticent.attacks.target import Victim
from reticent.audit.material import Material
from reticent.audit.reconstruction import Reconstruction
from reticent.errors import ConfigError, InputError, UnsupportedError
from reticent.guarantee import Guarantee, Pillar

Report = Callable[[str], None]
Keep = Callable[[Reconstruction], None]


def _keep_nothing(pictures: Reconstruction) -> None:
    """Pictures that nobody looks at."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How hard the attacks try, and what they are measured against; `keep` gets pictures."""

    access: Access = Access.SHADOW
    guarantees: tuple[Guarantee, ...] = ()
    shadows: int = 64
    seed: int = 0
    report: Report = lambda text: None
    keep: Keep = _keep_nothing


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One kind of attack: its goal in words, the least access it needs, and how it is run.

    `unfit` gives the reason why it can't run on this model and material, or None.
    """

    name: str
    pillar: Pillar
    access: Access
    says: str
    unfit: Callable[[Victim, Material], str | None]
    run: Callable[[Victim, Material, Settings], Sequence[Finding]]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the attacks found, and why the others weren't run, by name."""

    findings: tuple[Finding, ...]
    untested: dict[str, str]


def choose(names: Sequence[str], entries: Sequence[Entry]) -> tuple[Entry, ...]:
    """The attacks called `names`, in the suite's order ("all": every one).

    Raises `ConfigError` for a name that is not among them.
    """
    known = {entry.name: entry for entry in entries}
    for name in names:
        if name not in (*known, "all"):
            raise ConfigError(f"Expected attacks among {['all', *known]}, got attacks={name!r}.")
    if not names or "all" in names:
        return tuple(entries)
    return tuple(entry for entry in entries if entry.name in names)


def run_suite(
    victim: Victim,
    material: Material,
    *,
    attacks: Sequence[str],
    entries: Sequence[Entry],
    settings: Settings,
) -> Outcome:
    """Run each chosen attack that access, model and material allow.

    Under "all" an attack that can't run, or refuses, is recorded with its reason. One that was
    asked for by name and can't run raises `ConfigError`: silence would read as a pass.
    """
    material.fits(victim)
    named = set() if "all" in attacks else set(attacks)
    findings: list[Finding] = []
    untested: dict[str, str] = {}
    for entry in choose(attacks, entries):
        reason = _reason(entry, victim, material, settings.access)
        if reason is None:
            settings.report(f"attack: {entry.says}")
            try:
                findings += entry.run(victim, material, settings)
            except (InputError, UnsupportedError) as error:
                if entry.name in named:
                    raise
                reason = f"refused: {error}"
        elif entry.name in named:
            raise ConfigError(f"The attack {entry.name!r} can't run: {reason}.")
        if reason is not None:
            untested[entry.name] = reason
    return Outcome(findings=tuple(findings), untested=untested)


def _reason(entry: Entry, victim: Victim, material: Material, access: Access) -> str | None:
    if access < entry.access:
        return f"needs access {entry.access}, got {access}"
    return entry.unfit(victim, material)
