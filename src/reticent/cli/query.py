"""`reticent query`: ask a served model without sending it the input."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reticent.cli.frame import Session, verb
from reticent.errors import ConfigError, InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

KEY_VARIABLE = "RETICENT_API_KEY"


@verb
def query(
    session: Session,
    url: Annotated[str, typer.Argument(help="Where the service is, https://host:port.")],
    model: Annotated[str, typer.Argument(help="The model's name.")],
    file: Annotated[Path, typer.Argument(help="Inputs: .npz with array x, .npy, or .csv.")],
    authority: Annotated[
        Path | None, typer.Option("--ca", help="PEM certificate to trust (self-signed services).")
    ] = None,
    digest: Annotated[
        str | None, typer.Option("--digest", help="Digest of the encoder you expect, if known.")
    ] = None,
    user: Annotated[str, typer.Option(help="Whose odometer is charged.")] = "me",
    max_bits: Annotated[
        float | None, typer.Option(min=0, help="Refuse once this user's requests carry more bits.")
    ] = None,
    max_nats: Annotated[
        float | None, typer.Option(min=0, help="The same beyond the label, in nats.")
    ] = None,
    rows: Annotated[int | None, typer.Option(min=1, help="Only the first rows.")] = None,
) -> None:
    """Encode here, audit the encoder, ask the server, decode the answers.

    The API key is read from RETICENT_API_KEY. The encoder is fetched once into --out and pinned:
    another one later is refused until you delete it.
    """
    import numpy as np

    from reticent.guarantee import CLIENT
    from reticent.inference.deployed import client_half
    from reticent.inference.split.odometer import Odometer
    from reticent.service.client import Client
    from reticent.service.remote import Remote
    from reticent.transcript import Transcript

    state = session.directory(Path("runs") / "client")
    x = _inputs(file)[:rows]
    transcript = Transcript()
    odometer = Odometer(state / "odometer.db", max_bits=max_bits, max_nats=max_nats)
    with Client(
        url,
        api_key=os.environ.get(KEY_VARIABLE),
        verify=True if authority is None else authority,
    ) as client:
        folder, pinned = _pinned(state, model, client, digest)
        half = client_half(folder, odometer=odometer, user=user)
        # A record of zeros keeps company to a single query: the audit compares batches.
        audit = half.audit(np.concatenate([x[:31], np.zeros_like(x[:1])]))
        remote = Remote(client, model, half, client_digest=pinned)
        remote.check()
        answers = remote.ask(x, transcript=transcript)
    names = half.spec.class_names
    said = [names[int(answer)] if names else answer.item() for answer in answers]
    reading = odometer.read(user)
    record = {
        "model": model,
        "version": half.spec.version,
        "answers": said,
        "sent_bytes": sum(
            message.size
            for message in transcript
            if message.sender == CLIENT.name and not isinstance(message.payload, str)
        ),
        "audit": audit.to_json(),
        "odometer": vars(reading),
        "server_saw": [message.describe() for message in transcript],
    }
    session.result(record, lambda: _text(record))


def _inputs(file: Path) -> NDArray[np.float32]:
    import numpy as np

    try:
        if file.suffix == ".npz":
            with np.load(file, allow_pickle=False) as arrays:
                if "x" not in arrays:
                    raise InputError(f"Expected an array 'x' in {file.name!r}, got {arrays.files}.")
                x = arrays["x"]
        elif file.suffix == ".npy":
            x = np.load(file, allow_pickle=False)
        elif file.suffix == ".csv":
            x = np.loadtxt(file, delimiter=",", ndmin=2)
        else:
            raise InputError(f"Expected .npz, .npy or .csv, got file={file.name!r}.")
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{file.name!r} can't be read as arrays: {error}") from error
    return np.asarray(x, dtype=np.float32)


def _pinned(state: Path, model: str, client: Any, digest: str | None) -> tuple[Path, str]:
    """The client files of `model`, fetched once, and their digest, the same at every later use."""
    folder, pin = state / model, state / f"{model}.digest"
    if folder.exists() and pin.exists():
        known = pin.read_text().strip()
        if digest is not None and digest != known:
            raise ConfigError(
                f"The pinned encoder of {model!r} has digest {known[:16]}, you expect "
                f"{digest[:16]}. Delete {pin.parent / model} to fetch another."
            )
        return folder, known
    listing = client.fetch_client(model, folder, expected_digest=digest)
    pin.write_text(listing.digest + "\n")
    return folder, str(listing.digest)


def _text(record: dict[str, Any]) -> str:
    shown = record["answers"][:20]
    more = len(record["answers"]) - len(shown)
    lines = [f"answers  {', '.join(map(str, shown))}" + (f", and {more} more" if more else "")]
    lines.append(f"sent     {record['sent_bytes']} bytes for {len(record['answers'])} queries")
    odometer = record["odometer"]
    lines.append(
        f"odometer {odometer['requests']} requests, {odometer['bits']:.1f} bits in all, "
        f"{odometer['nats']:.3g} nats beyond the labels"
    )
    lines += [f"crossed  {line}" for line in record["server_saw"]]
    return "\n".join(lines)
