"""The OpenAPI document, written by hand: the routes are plain Starlette for speed."""

from __future__ import annotations

from typing import Any

_MODEL = {"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}
_VERSION = {"name": "version", "in": "path", "required": True, "schema": {"type": "string"}}
_FILE = {"name": "file", "in": "path", "required": True, "schema": {"type": "string"}}
_HEAD_LENGTH = {
    "name": "Inference-Header-Content-Length",
    "in": "header",
    "required": False,
    "description": "Length of the JSON head; raw tensor bytes follow it. Absent: all JSON.",
    "schema": {"type": "integer", "minimum": 1},
}
_ERROR = {"$ref": "#/components/responses/Error"}
_REFUSALS = {
    "400": "The message is malformed, or a name, type, shape or value is not allowed.",
    "401": "The API key is missing, unknown, expired or revoked.",
    "403": "The API key doesn't allow this model.",
    "404": "There is no such model, version or file.",
    "408": "The request came too slowly.",
    "409": "The client's encoder or evaluation keys aren't those of this server half.",
    "413": "The body is too long.",
    "415": "The body is compressed.",
    "429": "The key's rate or budget, or the address's patience, is spent; see Retry-After.",
    "503": "Not warmed up, or the queue is full; see Retry-After.",
}


def openapi(version: str) -> dict[str, Any]:
    """The document; it describes every route of `create_app`."""
    paths: dict[str, Any] = {
        "/v2": {"get": _get("Server metadata and extensions")},
        "/v2/health/live": {"get": _get("Whether the process runs")},
        "/v2/health/ready": {"get": _get("Whether all models are warm", "503")},
        "/metrics": {"get": _get("Prometheus metrics", "401", "403", "429", secure=True)},
        "/openapi.json": {"get": _get("This document")},
    }
    for prefix, parameters in (
        ("/v2/models/{model}", [_MODEL]),
        ("/v2/models/{model}/versions/{version}", [_MODEL, _VERSION]),
    ):
        common = ("401", "403", "404", "429")
        paths |= {
            prefix: _item(parameters, get=_get("Model metadata", *common, secure=True)),
            f"{prefix}/ready": _item(
                parameters, get=_get("Whether the model is warm", *common, "503", secure=True)
            ),
            f"{prefix}/infer": _item([*parameters, _HEAD_LENGTH], post=_infer()),
            f"{prefix}/keys": _item(parameters, post=_keys()),
        }
    client = "/v2/models/{model}/client"
    paths[client] = _item(
        [_MODEL], get=_get("The client files with digests", "401", "403", "404", secure=True)
    )
    paths[client + "/{file}"] = _item(
        [_MODEL, _FILE], get=_get("One client file", "401", "403", "404", secure=True)
    )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Reticent inference service",
            "version": version,
            "description": "Open Inference Protocol V2 with the binary tensor extension.",
        },
        "paths": paths,
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "responses": {
                "Error": {
                    "description": "Refused",
                    "content": {"application/json": {"schema": _object(error={"type": "string"})}},
                }
            },
        },
    }


def _infer() -> dict[str, Any]:
    content = {
        "application/json": {"schema": {"type": "object"}},
        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
    }
    operation = _get("Answer one request", *_REFUSALS, secure=True)
    operation["requestBody"] = {"required": True, "content": content}
    operation["responses"]["200"]["content"] = content
    return operation


def _keys() -> dict[str, Any]:
    operation = _get("Keep a client's evaluation keys", *_REFUSALS, secure=True)
    octets = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
    operation["requestBody"] = {"required": True, "content": octets}
    return operation


def _get(summary: str, *refusals: str, secure: bool = False) -> dict[str, Any]:
    responses: dict[str, Any] = {"200": {"description": summary}}
    responses |= {status: {**_ERROR, "description": _REFUSALS[status]} for status in refusals}
    operation: dict[str, Any] = {"summary": summary, "responses": responses}
    if secure:
        operation["security"] = [{"key": []}]
    return operation


def _item(parameters: list[dict[str, Any]], **operations: Any) -> dict[str, Any]:
    return {"parameters": parameters, **operations}


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}
