"""POST .../keys: a client's evaluation keys, streamed to the model's spool and checked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from reticent.inference.sealed.spool import TooManyUploadsError
from reticent.service.refusal import RefusalError, busy

if TYPE_CHECKING:
    from reticent.service.executor import BoundedExecutor
    from reticent.service.model import LoadedModel


async def receive_keys(
    executor: BoundedExecutor, model: LoadedModel, owner: str, request: Request
) -> Response:
    """Keep the keys in the request's body for `owner`; the reply names them.

    Raises `RefusalError` 404 for a model that takes none, 413 for more than its plan's keys have,
    503 while too many arrive; `DataError` and `BundleError` for bytes that are no keys of its plan.
    """
    keyed = model.keyed
    if keyed is None:
        raise RefusalError(404, f"Model {model.name!r} takes no evaluation keys.")
    stated = request.headers.get("content-length", "")
    if stated.isdigit() and int(stated) > keyed.spool.largest:
        raise RefusalError(
            413,
            f"Expected evaluation keys of at most {keyed.spool.largest} bytes, got {stated}.",
            headers={"connection": "close"},
        )
    try:
        with keyed.spool.incoming(owner) as incoming:
            async for chunk in request.stream():
                incoming.write(chunk)
            keys = incoming.finish()
    except TooManyUploadsError as error:
        raise busy(str(error)) from None
    except ClientDisconnect:
        return Response(status_code=499)  # nobody is left to read it
    # Through the library's validating loader, in a process that may die of it.
    await executor.run(keyed.admit, keys)
    return JSONResponse({"keys": keys.hex(), "model": model.name})
