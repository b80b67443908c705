"""A process that serves one sealed network with TLS, API keys and small caps, for tests."""

from __future__ import annotations

import argparse
from pathlib import Path

from reticent.inference.sealed.server import SealedServer
from reticent.service.certificate import make_self_signed
from reticent.service.keys import KeyStore
from reticent.service.model import ServedModel
from reticent.service.serve import Binding, serve


def main() -> None:
    """Serve `folder`/server as `sealed`; the ready line goes to standard output."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--most-spooled", type=int, required=True)
    parser.add_argument("--most-loaded", type=int, required=True)
    parser.add_argument("--most-per-owner", type=int, required=True)
    given = parser.parse_args()
    half = SealedServer(
        given.folder / "server",
        spool=given.folder / "spool",
        processes=1,
        most_spooled_bytes=given.most_spooled,
        most_loaded_bytes=given.most_loaded,
        most_per_owner=given.most_per_owner,
    )
    serve(
        {"sealed": ServedModel(name="sealed", half=half, channel="ckks")},
        Binding(
            port=0,
            tls=make_self_signed(given.folder / "tls"),
            keys=KeyStore(given.folder / "keys.json"),
        ),
    )


if __name__ == "__main__":
    main()
