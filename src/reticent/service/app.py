"""The ASGI app: V2 routes over server halves, with keys, limits and metrics."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from importlib.metadata import version as version_of
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from reticent.errors import AuthenticationError, ConfigError, ReticentError
from reticent.service.evaluation_keys import receive_keys
from reticent.service.executor import BoundedExecutor
from reticent.service.keys import METRICS_SCOPE, KeyStore
from reticent.service.limits import (
    ClientGoneError,
    Limits,
    RateLimiter,
    network_of,
    read_body,
)
from reticent.service.log import ServiceLog
from reticent.service.metrics import Metrics
from reticent.service.model import LoadedModel, ServedModel
from reticent.service.openapi import openapi
from reticent.service.refusal import (
    RefusalError,
    busy,
    forbidden,
    refusal_of,
    too_many,
    too_many_failures,
)
from reticent.service.wire import (
    HEADER_LENGTH,
    Codec,
    parse_header_length,
)

EXTENSIONS = ("binary_tensor_data", "reticent.client", "reticent.keys")
_HEADER_LENGTH = HEADER_LENGTH.encode()
_OCTETS = (b"content-type", b"application/octet-stream")
_JSON = (b"content-type", b"application/json")
_ANONYMOUS = "anonymous"

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


def create_app(
    models: Mapping[str, ServedModel],
    *,
    keys: KeyStore | None,
    limits: Limits | None = None,
    allow_anonymous: bool = False,
    log: ServiceLog | None = None,
) -> Starlette:
    """The service as an ASGI app; `app.state.service` is its `Service`.

    Without keys it refuses to exist unless `allow_anonymous`, and then answers on loopback only.
    Deadlines for slow clients are the connection's (`reticent.service.protocol`), which `serve`
    adds; another ASGI server has to bring its own.
    Raises `ConfigError` or `BundleError` before anything is served.
    """
    service = Service(models, keys=keys, limits=limits, allow_anonymous=allow_anonymous, log=log)
    app = Starlette(
        routes=_routes(service),
        lifespan=service.lifespan,
        exception_handlers={HTTPException: _tell_http},
    )
    app.state.service = service
    return app


class Service:
    """The live parts behind the routes."""

    def __init__(
        self,
        models: Mapping[str, ServedModel],
        *,
        keys: KeyStore | None,
        limits: Limits | None = None,
        allow_anonymous: bool = False,
        log: ServiceLog | None = None,
    ) -> None:
        if not models:
            raise ConfigError("Expected at least one model to serve, got 0.")
        for name, model in models.items():
            if name != model.name:
                raise ConfigError(f"Expected models keyed by name, got {name!r}: {model.name!r}.")
        if (keys is None) is not allow_anonymous:
            raise ConfigError(
                "Expected either a key store, or keys=None with allow_anonymous=True (loopback "
                f"only), got keys={'None' if keys is None else 'a store'}, {allow_anonymous=}."
            )
        self.limits = limits or Limits()
        self.log = log or ServiceLog(sys.stderr)
        self.version = version_of("reticent")
        self.models = {
            name: LoadedModel(model, batch_rows=self.limits.batch_rows)
            for name, model in models.items()
        }
        self.metrics = Metrics(self.models)
        self.executor = BoundedExecutor(threads=self.limits.threads, queue=self.limits.queue)
        self.codec = Codec(self.limits.wire)
        self.is_ready = False
        self._keys = keys
        self._rates = RateLimiter(rate=self.limits.rate, burst=self.limits.burst)
        self._failures = RateLimiter(rate=self.limits.failure_rate, burst=self.limits.failure_burst)
        self._warm: asyncio.Event = asyncio.Event()
        self._failure: ReticentError | None = None

    @contextlib.asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        """Warm up in the background, so that liveness answers meanwhile; drain at the end."""
        warming = asyncio.create_task(self._warm_up())
        self.log.event("start", models=sorted(self.models), version=self.version)
        try:
            yield
        finally:
            warming.cancel()
            self.is_ready = False
            await asyncio.to_thread(self.executor.close)
            for model in self.models.values():
                await asyncio.to_thread(model.close)
            self.log.event("stop")

    async def wait_warm(self) -> None:
        """Return when ready; raise the `ReticentError` that a model's warm-up ended with."""
        await self._warm.wait()
        if self._failure is not None:
            raise self._failure

    def allow(self, scope: Scope, authorization: bytes | None, wanted: str) -> str:
        """The id of the request's key; raise unless it allows `wanted` and has rate left."""
        caller = self._identify(scope, authorization, wanted)
        seconds = self._rates.wait(caller)
        if seconds:
            raise too_many(seconds)
        return caller

    def model(self, name: str, version: str | None) -> LoadedModel:
        """The model of this name and version, or `RefusalError` 404."""
        model = self.models.get(name)
        if model is None or (version is not None and version != model.version):
            raise RefusalError(404, "There is no such model or version.")
        return model

    def tell(self, error: Exception) -> Response:
        """The reply to a request that `error` ended."""
        refusal = self.refusal(error)
        return Response(
            refusal.body, refusal.status, refusal.headers, media_type="application/json"
        )

    def refusal(self, error: Exception) -> RefusalError:
        """What the client is told of `error`; what isn't a refusal is logged, and told as 500."""
        known = refusal_of(error)
        if known is None:
            self.log.failure("failed", error)
            return RefusalError(500, "The server failed on this request.", outcome="failed")
        return known

    def _identify(self, scope: Scope, authorization: bytes | None, wanted: str) -> str:
        """The key's id. Its scope counts before its rate: a wrong model costs nothing."""
        if self._keys is None:
            _require_loopback(scope)
            return _ANONYMOUS
        try:
            record = self._keys.authenticate(authorization)
        except ConfigError as error:
            # The key file broke while we run: fail closed, and tell the operator, not the client.
            self.log.failure("key store unreadable", error)
            raise busy("The key store can't be read.") from None
        except AuthenticationError:
            self._count_failure(scope)
            raise
        if not record.allows(wanted):
            raise forbidden(wanted)
        return record.id

    def _count_failure(self, scope: Scope) -> None:
        """A wrong key spends its address's patience; once spent, its connection is closed as well.

        Right keys are answered all the same, so that nobody behind a shared address is locked out
        by another's stale key. Addresses are held in memory only, never logged.
        """
        host = (scope.get("client") or ("",))[0]
        seconds = self._failures.wait(network_of(host))
        if seconds:
            raise too_many_failures(seconds) from None

    async def _warm_up(self) -> None:
        try:
            for model in self.models.values():
                await self.executor.run(model.warm_up)
        except ReticentError as error:
            self._failure = error
            self.log.failure("warm-up failed", error)
        else:
            self.is_ready = True
            self.metrics.ready(True)
            self.log.event("ready")
        self._warm.set()


class Infer:
    """POST .../infer as a bare ASGI endpoint: Starlette's request wrapper would double its cost."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        name = scope["path_params"]["model"]
        metrics = self._service.metrics
        try:
            body, head_length = await self._answer(scope, receive)
        except ClientGoneError:
            metrics.refused(name, "refused")
            return
        except Exception as error:
            refusal = self._service.refusal(error)
            metrics.refused(name, refusal.outcome)
            extra = [(key.encode(), value.encode()) for key, value in refusal.headers.items()]
            await _send(send, refusal.status, refusal.body, [_JSON, *extra])
            return
        metrics.answered(name, time.perf_counter() - started)
        if head_length is None:
            await _send(send, 200, body, [_JSON])
        else:
            length = (_HEADER_LENGTH, b"%d" % head_length)
            await _send(send, 200, body, [_OCTETS, length])

    async def _answer(self, scope: Scope, receive: Receive) -> tuple[bytes, int | None]:
        service = self._service
        limits = service.limits
        headers = dict(scope["headers"])
        parameters = scope["path_params"]
        service.allow(scope, headers.get(b"authorization"), parameters["model"])
        model = service.model(parameters["model"], parameters.get("version"))
        if not service.is_ready:
            raise busy("The models are warming up.")
        if headers.get(b"content-encoding", b"identity") != b"identity":
            raise RefusalError(415, "Expected an uncompressed body. Leave out Content-Encoding.")
        body = await read_body(
            receive,
            stated=_length(headers.get(b"content-length")),
            max_bytes=max(limits.body_bytes, model.request_bytes),
        )
        request = service.codec.decode_request(
            body, parse_header_length(headers.get(_HEADER_LENGTH))
        )
        model.check_request(request.tensors, request.parameters)
        if model.cheap:
            reply = model.answer(request.tensors)
        else:
            reply = await service.executor.run(model.answer, request.tensors)
        return service.codec.encode_reply(reply, request, model=model.name, version=model.version)


def _routes(service: Service) -> list[BaseRoute]:
    """All routes; the busiest first, since Starlette tries them in order."""
    infer = Infer(service)

    def allow(request: Request, wanted: str) -> str:
        authorization = request.headers.get("authorization")
        return service.allow(
            request.scope, None if authorization is None else authorization.encode(), wanted
        )

    def find(request: Request) -> LoadedModel:
        parameters = request.path_params
        allow(request, parameters["model"])
        return service.model(parameters["model"], parameters.get("version"))

    async def live(_: Request) -> Response:
        return JSONResponse({"live": True})

    async def ready(_: Request) -> Response:
        return JSONResponse({"ready": service.is_ready}, 200 if service.is_ready else 503)

    async def server(_: Request) -> Response:
        return JSONResponse(
            {"name": "reticent", "version": service.version, "extensions": EXTENSIONS}
        )

    async def metadata(request: Request) -> Response:
        return JSONResponse(find(request).metadata())

    async def model_ready(request: Request) -> Response:
        model = find(request)
        return JSONResponse(
            {"name": model.name, "ready": service.is_ready}, 200 if service.is_ready else 503
        )

    async def manifest(request: Request) -> Response:
        return JSONResponse(find(request).manifest())

    async def client_file(request: Request) -> Response:
        content = find(request).files.get(request.path_params["file"])
        if content is None:
            raise RefusalError(
                404, "There is no such client file. Get the manifest for their names."
            )
        return Response(content, media_type="application/octet-stream")

    async def keys(request: Request) -> Response:
        parameters = request.path_params
        owner = allow(request, parameters["model"])
        found = service.model(parameters["model"], parameters.get("version"))
        if not service.is_ready:
            raise busy("The models are warming up.")
        return await receive_keys(service.executor, found, owner, request)

    async def metrics(request: Request) -> Response:
        allow(request, METRICS_SCOPE)
        return Response(service.metrics.render(), media_type=service.metrics.content_type)

    async def document(_: Request) -> Response:
        return JSONResponse(openapi(service.version))

    model, versioned = "/v2/models/{model}", "/v2/models/{model}/versions/{version}"
    routes: list[BaseRoute] = [
        Route(f"{prefix}/infer", infer, methods=["POST"]) for prefix in (model, versioned)
    ]
    for prefix in (model, versioned):
        routes.append(Route(f"{prefix}/keys", _guarded(service, keys), methods=["POST"]))
    for path, endpoint in (
        ("/v2/health/live", live),
        ("/v2/health/ready", ready),
        ("/v2", server),
        (model, metadata),
        (versioned, metadata),
        (f"{model}/ready", model_ready),
        (f"{versioned}/ready", model_ready),
        (f"{model}/client", manifest),
        (f"{model}/client/{{file}}", client_file),
        ("/metrics", metrics),
        ("/openapi.json", document),
    ):
        routes.append(Route(path, _guarded(service, endpoint), methods=["GET"]))
    return routes


def _guarded(
    service: Service, endpoint: Callable[[Request], Awaitable[Response]]
) -> Callable[[Request], Awaitable[Response]]:
    """`endpoint` with its errors told here: Starlette would pass them on to uvicorn's log."""

    async def guarded(request: Request) -> Response:
        try:
            return await endpoint(request)
        except Exception as error:
            return service.tell(error)

    return guarded


async def _tell_http(_: Request, error: Exception) -> Response:
    """Starlette's own 404 and 405, in V2's form."""
    assert isinstance(error, HTTPException)
    refusal = RefusalError(error.status_code, error.detail, headers=error.headers)
    return Response(refusal.body, refusal.status, refusal.headers, media_type="application/json")


async def _send(send: Send, status: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _length(value: bytes | None) -> int | None:
    return int(value) if value is not None and value.isdigit() and len(value) < 20 else None


def _require_loopback(scope: Scope) -> None:
    host = (scope.get("server") or ("",))[0]
    try:
        is_loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_loopback = host == "localhost"
    if not is_loopback:
        raise AuthenticationError("Without keys this service answers on the loopback address only.")
