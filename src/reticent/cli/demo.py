"""`reticent demo`: the whole story on embedded data, from training to what the server saw."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reticent.cli.frame import Session, verb
from reticent.cli.run import show
from reticent.cli.steps import steps

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from reticent.data.task import Task
    from reticent.pipeline.recipe import Recipe
    from reticent.pipeline.run import Result


@verb
def demo(
    session: Session,
    data: Annotated[str, typer.Option(help="An embedded set: gait, mnist5k, sketch-faces.")] = (
        "gait"
    ),
    force: Annotated[bool, typer.Option("--force", help="Replace an existing bundle.")] = False,
) -> None:
    """Train, harden, attack, serve and query on embedded data, in minutes."""
    from reticent.pipeline.run import run

    recipe = _recipe(data, session.seed_or(0))
    out = session.out or Path("runs") / "demo"
    with steps(session, "demo") as report:
        result = run(recipe, out, report=report, force=force or session.out is None)
        report("serve on loopback with TLS, and query as a client")
        seen = _serve_and_query(recipe, result)
    session.note("\nWhat the server saw of five queries:")
    for line in seen["lines"]:
        session.note(f"  {line}")
    show(session, result, server_saw=seen["lines"], answers=seen["answers"])


def _recipe(data: str, seed: int) -> Recipe:
    from reticent.pipeline.recipe import Recipe

    return Recipe.from_dict(
        {
            "name": "demo",
            "seed": seed,
            "task": {"data": data},
            "train": {"epochs": 8},
            "inference": {"method": "adapter_code"},
            "audit": {
                "quick": True,
                "seeds": 1,
                "frontier": ["center", "noise", "center_noise", "prototype_code"],
            },
            "gates": {"max_excess_leakage": 0.02},
        },
        source="demo",
    )


def _serve_and_query(recipe: Recipe, result: Result) -> dict[str, Any]:
    """A real server on a real socket with TLS and a key; what crossed, as the server saw it."""
    from reticent.guarantee import SERVER
    from reticent.inference.bundle import load
    from reticent.inference.split.client import SplitClient
    from reticent.inference.split.odometer import Odometer
    from reticent.pipeline.tasks import load_task
    from reticent.service.certificate import make_self_signed
    from reticent.service.client import Client
    from reticent.service.deployments import served
    from reticent.service.keys import KeyStore
    from reticent.service.remote import Remote
    from reticent.service.serve import Binding, running
    from reticent.transcript import Transcript

    task = load_task(recipe)
    transcript = Transcript()
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        keys = KeyStore(folder / "keys.json")
        secret = keys.create(recipe.name)
        tls = make_self_signed(folder)
        binding = Binding(port=0, tls=tls, keys=keys)
        models = served([load(result.bundle.folder)])
        with (
            (folder / "log").open("w") as log,
            running(models, binding, log=log) as server,
            Client(server.url, api_key=secret, verify=tls.certificate) as client,
        ):
            listing = client.fetch_client(recipe.name, folder / "client", expected_digest=None)
            half = SplitClient.load(
                folder / "client", odometer=Odometer(folder / "odometer.db"), user="me"
            )
            half.audit(task.x[:32])
            remote = Remote(client, recipe.name, half, client_digest=listing.digest)
            answers = remote.ask(_one_of_each(task), transcript=transcript)
        log_lines = (folder / "log").read_text().splitlines()
    lines = [message.describe() for message in transcript.view(SERVER)]
    names = task.class_names
    said = [names[int(a)] if names else float(a) for a in answers]
    return {"lines": [*lines, *(f"server log  {line}" for line in log_lines)], "answers": said}


def _one_of_each(task: Task) -> NDArray[np.float32]:
    """The first record of each class: queries whose answers differ."""
    import numpy as np

    _, first = np.unique(task.public, return_index=True)
    return task.x[first[:5]]
