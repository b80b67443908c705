"""`reticent serve`: bundles on the Open Inference Protocol V2, with TLS and API keys."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reticent.cli.frame import Session, verb
from reticent.errors import ConfigError


@verb
def serve(
    session: Session,
    bundle: Annotated[list[Path], typer.Argument(help="Bundles that `reticent run` wrote.")],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8400,
    certificate: Annotated[
        Path | None, typer.Option("--tls-cert", help="PEM certificate chain.")
    ] = None,
    key: Annotated[Path | None, typer.Option("--tls-key", help="PEM private key.")] = None,
    anonymous: Annotated[
        bool, typer.Option("--anonymous", help="No API keys; loopback addresses only.")
    ] = False,
    processes: Annotated[
        int | None,
        typer.Option(min=1, help="Processes that compute on ciphertexts; default: one per core."),
    ] = None,
) -> None:
    """Serve bundles until SIGTERM; keys and a self-signed certificate live in --out.

    The first start makes an API key and prints it once. Without --tls-cert a self-signed
    certificate is made, which clients must be handed (`query --ca`).
    """
    from reticent.inference.bundle import load
    from reticent.service.certificate import TlsFiles, make_self_signed
    from reticent.service.deployments import served
    from reticent.service.keys import ALL_MODELS, KeyStore
    from reticent.service.limits import Limits
    from reticent.service.serve import Binding, serve

    if (certificate is None) != (key is None):
        raise ConfigError("Expected --tls-cert and --tls-key together, got one of them.")
    state = session.directory(Path("runs") / "service")
    models = served(
        [load(folder) for folder in bundle], spool=state / "evaluation-keys", processes=processes
    )
    # A thread waits for each process that computes; nothing else needs more than one.
    limits = Limits(threads=max(model.parallel for model in models.values()))
    if certificate is not None and key is not None:
        tls = TlsFiles(certificate=certificate, key=key)
    else:
        tls = make_self_signed(state)
        session.warn(f"self-signed certificate: hand clients {tls.certificate} (query --ca)")
    keys = None if anonymous else KeyStore(state / "keys.json")
    if keys is not None and not keys.records():
        session.warn(f"API key, shown once: {keys.create(ALL_MODELS)!s}")
    binding = Binding(host=host, port=port, tls=tls, keys=keys, allow_anonymous=anonymous)
    serve(models, binding, limits=limits, announce=session.stdout)
    session.has_result = True
