"""`reticent audit`: attack a published bundle as it is served, or any finished model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reticent.cli.frame import Overrides, Session, verb
from reticent.cli.run import exit_code
from reticent.cli.steps import steps
from reticent.errors import ConfigError

if TYPE_CHECKING:
    from reticent.pipeline.subject import Subject
    from reticent.report import Gallery

ListOf = list[str] | None


@verb
def audit(
    session: Session,
    target: Annotated[
        str,
        typer.Argument(
            metavar="BUNDLE_OR_MODEL",
            help="A bundle, a checkpoint of `reticent train`, a file.onnx, or module:object "
            "(which is imported, so its code runs).",
        ),
    ] = "",
    attacks: Annotated[
        ListOf, typer.Option("--attacks", help="all, or names; repeatable or with commas.")
    ] = None,
    access: Annotated[
        str | None,
        typer.Option("--access", help="What the adversary sees: L0 blind ... L5 weights."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", help="Records with a column 'member' (1, 0 or 2).")
    ] = None,
    public: Annotated[str | None, typer.Option("--public", help="The column predicted.")] = None,
    private: Annotated[
        ListOf, typer.Option("--private", help="A private attribute; repeatable.")
    ] = None,
    member: Annotated[
        str, typer.Option("--member", help="The column that says who was a member.")
    ] = "member",
    trained: Annotated[
        str | None,
        typer.Option("--trained", help="How the model was trained: epochs=20,optimiser=sgd,..."),
    ] = None,
    outputs: Annotated[
        str, typer.Option("--outputs", help="What the model returns: logits or probabilities.")
    ] = "logits",
    claim: Annotated[
        ListOf, typer.Option("--claim", help="What is claimed, such as epsilon=3,delta=1e-5.")
    ] = None,
    shadows: Annotated[
        int | None, typer.Option("--shadows", min=2, help="How many reference models to train.")
    ] = None,
    listing: Annotated[bool, typer.Option("--list", help="List the attacks.")] = False,
    changes: Overrides = None,
) -> None:
    """Attack a bundle or a model; exit 3 when a claim is contradicted or a gate fails.

    A bundle is attacked as it is served. A model is attacked with the records that --data gives,
    or with those of the recipe that its checkpoint carries. Write scorecard and report with --out.
    """
    from reticent.audit.scorecard import Scorecard
    from reticent.report import render_text, write_report

    if listing:
        _list(session)
        return
    if not target:
        raise ConfigError("Expected a bundle or a model to audit. See: reticent audit --help")
    names = [name for part in attacks or () for name in part.split(",") if name]
    gallery: Gallery | None = None
    rebuilt: list[Gallery] = []
    card: Scorecard
    if (Path(target) / "manifest.json").exists():
        card, gallery = _bundle(session, Path(target), names, access, shadows, changes)
    else:
        options = {"public": public, "private": tuple(private or ()), "member": member}
        subject = _subject(target, data, options, trained, list(changes or []))
        card = _model(
            session, target, subject, names, access, shadows, claim, outputs, rebuilt.append
        )
    if session.out is not None:
        folder = session.directory(session.out)
        card.write(folder / "scorecard.json")
        write_report(folder / "report.html", card, gallery, rebuilt=rebuilt)
        session.note(f"report  {folder / 'report.html'}")
    session.result(card.to_json(), lambda: render_text(card), exit_code=exit_code(card))


def _list(session: Session) -> None:
    from reticent.audit.register import ENTRIES

    record = {
        "attacks": [
            {
                "name": entry.name,
                "pillar": entry.pillar.value,
                "access": f"L{entry.access.value}",
                "says": entry.says,
            }
            for entry in ENTRIES
        ]
    }
    lines = [
        f"{entry.name:22} L{entry.access.value}  {entry.pillar.value:14} {entry.says}"
        for entry in ENTRIES
    ]
    session.result(record, "\n".join(lines))


def _bundle(
    session: Session,
    folder: Path,
    names: list[str],
    access: str | None,
    shadows: int | None,
    changes: list[str] | None,
) -> Any:
    from reticent.inference.bundle import load
    from reticent.pipeline.published import audit_bundle

    overrides = list(changes or [])
    if names:
        overrides.append(f"audit.attacks={names}".replace("'", '"'))
    if access is not None:
        overrides.append(f'audit.access="{access}"')
    if shadows is not None:
        overrides.append(f"audit.shadows={shadows}")
    loaded = load(folder)
    with steps(session, f"audit {loaded.name}") as report:
        card, attacked = audit_bundle(loaded, overrides, seed=session.seed, report=report)
    return card, attacked.gallery


def _subject(
    target: str,
    data: Path | None,
    options: dict[str, Any],
    trained: str | None,
    overrides: list[str],
) -> Subject:
    from reticent.pipeline.subject import of_checkpoint, of_file

    if data is not None:
        return of_file(target, data, trained=trained, **options)
    if not Path(target).is_dir():
        raise ConfigError(
            f"Expected --data FILE with the records that {target!r} was trained on and others. "
            "Only a checkpoint of `reticent train` knows its own."
        )
    return of_checkpoint(Path(target), overrides)


def _model(
    session: Session,
    target: str,
    subject: Subject,
    names: list[str],
    access: str | None,
    shadows: int | None,
    claim: list[str] | None,
    outputs: str,
    keep: Callable[[Gallery], None],
) -> Any:
    from reticent.audit.material import parse_claim
    from reticent.pipeline.model_audit import audit_model
    from reticent.pipeline.private_audit import with_findings

    if outputs not in ("logits", "probabilities"):
        raise ConfigError(f"Expected outputs logits or probabilities, got outputs={outputs!r}.")
    seed = session.seed_or(0)
    level = access or ("L3" if subject.recipe is not None else "L2")
    with steps(session, f"audit {target}") as report:
        card = audit_model(
            subject.model,
            subject.task,
            members=subject.members,
            non_members=subject.non_members,
            population=subject.population,
            attacks=tuple(names) or ("all",),
            access=level,
            recipe=subject.recipe,
            claims=(*subject.claims, *(parse_claim(text) for text in claim or ())),
            outputs=outputs,  # type: ignore[arg-type]
            shadows=shadows or 64,
            seed=seed,
            report=report,
            keep=keep,
            command=f"reticent audit {Path(target).name} --access {level} --seed {seed}",
        )
        return with_findings(card, subject.inside(report))
