"""The app, without a socket: each refusal has its status, and the next request is answered."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from service_fakes import CODES, BrokenHalf, DenseHalf, TableHalf, fake_models
from starlette.testclient import TestClient

from reticent.errors import BundleError, ConfigError
from reticent.inference.channel import Tensors, TensorSpec
from reticent.service.app import create_app
from reticent.service.keys import METRICS_SCOPE, KeyStore
from reticent.service.limits import Limits
from reticent.service.log import ServiceLog
from reticent.service.model import ServedModel
from reticent.service.wire import HEADER_LENGTH, decode_reply, encode_request, parse_header_length

HERE = "http://127.0.0.1"
CODE = {"code": np.array([3, 1], dtype=np.uint8)}


def started(**options: Any) -> TestClient:
    options = {"keys": None, "allow_anonymous": "keys" not in options, **options}
    models = options.pop("models", None) or fake_models(options.pop("client_files", None))
    log = ServiceLog(options.pop("log", io.StringIO()))
    return TestClient(create_app(models, log=log, **options), base_url=HERE)


@pytest.fixture
def client() -> Iterator[TestClient]:
    with started(limits=Limits(body_bytes=100_000)) as made:
        wait_ready(made)
        yield made


def wait_ready(client: TestClient) -> None:
    until = time.monotonic() + 10
    while client.get("/v2/health/ready").status_code != 200:
        assert time.monotonic() < until
        time.sleep(0.01)


def infer(client: TestClient, model: str, tensors: Tensors, **headers: str) -> Any:
    body, length = encode_request(tensors)
    sent = {HEADER_LENGTH: str(length), **headers}
    return client.post(f"/v2/models/{model}/infer", content=body, headers=sent)


def error_of(response: Any) -> str:
    assert list(response.json()) == ["error"]
    return str(response.json()["error"])


def assert_serving(client: TestClient) -> None:
    response = infer(client, "table", CODE)
    assert response.status_code == 200
    reply = decode_reply(response.content, parse_header_length(response.headers[HEADER_LENGTH]))
    np.testing.assert_array_equal(reply.tensors["scores"], TableHalf().table[[3, 1]])


def test_metadata_says_what_v2_and_we_add(client: TestClient) -> None:
    assert client.get("/v2/health/live").json() == {"live": True}
    extensions = client.get("/v2").json()["extensions"]
    assert extensions == ["binary_tensor_data", "reticent.client", "reticent.keys"]
    table = client.get("/v2/models/table/versions/1").json()
    assert table["inputs"] == [{"name": "code", "datatype": "UINT8", "shape": [-1]}]
    assert table["outputs"] == [{"name": "scores", "datatype": "FP32", "shape": [-1, 6]}]
    assert client.get("/v2/models/table/ready").json() == {"name": "table", "ready": True}


def test_json_in_json_out(client: TestClient) -> None:
    entry = {"name": "code", "datatype": "UINT8", "shape": [2], "data": [3, 1]}
    response = client.post("/v2/models/table/infer", json={"inputs": [entry], "id": "q"})
    document = response.json()
    assert document["id"] == "q"
    np.testing.assert_allclose(
        np.reshape(document["outputs"][0]["data"], (2, 6)), TableHalf().table[[3, 1]]
    )


def test_model_off_the_loop_answers_the_same(client: TestClient) -> None:
    x = np.random.default_rng(0).normal(size=(3, 64)).astype(np.float32)
    response = infer(client, "dense", {"x": x})
    reply = decode_reply(response.content, parse_header_length(response.headers[HEADER_LENGTH]))
    np.testing.assert_allclose(reply.tensors["logits"], x @ DenseHalf().weight, rtol=1e-6)


def test_bytes_tensors_pass_through(client: TestClient) -> None:
    cipher = np.array([b"\x00\xff" * 500, b""], dtype=object)
    response = infer(client, "echo", {"cipher": cipher})
    reply = decode_reply(response.content, parse_header_length(response.headers[HEADER_LENGTH]))
    assert reply.tensors["cipher"].tolist() == cipher.tolist()


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({"code": np.zeros(2, np.int64)}, "as uint8"),
        ({"code": np.zeros((2, 1), np.uint8)}, "got uint8"),
        ({"code": np.zeros(0, np.uint8)}, "1 to 8192 rows"),
        ({"code": np.zeros(9000, np.uint8)}, "1 to 8192 rows"),
        ({"other": np.zeros(2, np.uint8)}, "'code' is missing"),
        ({**CODE, "extra": np.zeros(2, np.uint8)}, "got 2 tensors"),
        ({"code": np.full(2, CODES, np.uint8)}, "another server"),
    ],
)
def test_requests_that_do_not_fit_are_400(client: TestClient, tensors: Tensors, says: str) -> None:
    response = infer(client, "table", tensors)
    assert response.status_code == 400
    assert says in error_of(response)
    assert_serving(client)


def test_rows_must_agree_between_inputs() -> None:
    class Pair(DenseHalf):
        inputs = tuple(TensorSpec(name=n, dtype="float32", shape=(None, 64)) for n in "ab")

        def answer(self, request: Tensors) -> Tensors:
            return {"logits": (request["a"] + request["b"]) @ self.weight}

    with started(models={"pair": ServedModel(name="pair", half=Pair())}) as client:
        wait_ready(client)
        both = {"a": np.zeros((2, 64), np.float32), "b": np.zeros((3, 64), np.float32)}
        assert "Expected 2 rows" in error_of(infer(client, "pair", both))


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"content": b"{}"}, 400),
        ({"content": b""}, 400),
        ({"content": b"\x00" * 100}, 400),
        ({"content": b"[" * 50_000}, 400),
        ({"content": b"x" * 100_001}, 413),
        ({"content": iter([b"x" * 60_000] * 3)}, 413),
        ({"headers": {HEADER_LENGTH: "-5"}}, 400),
        ({"headers": {HEADER_LENGTH: "999999"}}, 400),
        ({"headers": {"content-encoding": "gzip"}}, 415),
        ({"url": "/v2/models/none/infer"}, 404),
        ({"url": "/v2/models/table/versions/9/infer"}, 404),
        ({"url": "/v2/models/..%2f..%2fetc/infer"}, 404),
        ({"url": "/v2/nonsense"}, 404),
        ({"method": "GET"}, 405),
        ({"method": "DELETE"}, 405),
    ],
)
def test_hostile_requests_get_their_status_and_the_server_serves_on(
    client: TestClient, change: dict[str, Any], status: int
) -> None:
    body, length = encode_request(CODE)
    request = {
        "method": "POST",
        "url": "/v2/models/table/infer",
        "content": body,
        "headers": {} if "content" in change else {HEADER_LENGTH: str(length)},
        **change,
    }
    response = client.request(**request)
    assert response.status_code == status
    assert error_of(response)
    assert_serving(client)


def test_a_failing_model_is_500_without_its_message(client: TestClient) -> None:
    response = infer(client, "broken", {"x": np.full((1, 64), 0.625, np.float32)})
    assert response.status_code == 500
    assert "0.625" not in response.text
    assert_serving(client)


def test_keys_scopes_and_their_statuses(tmp_path: Path) -> None:
    store = KeyStore(tmp_path / "keys.json", reload_seconds=0.0)
    table, dense, metrics = (store.create(scope) for scope in ("table", "dense", METRICS_SCOPE))
    with started(keys=store) as client:
        wait_ready(client)
        assert infer(client, "table", CODE).status_code == 401
        assert infer(client, "table", CODE).headers["www-authenticate"] == "Bearer"
        for key, status in ((table, 200), (dense, 403), (metrics, 403), ("rk_x", 401)):
            assert infer(client, "table", CODE, authorization=f"Bearer {key}").status_code == status
            got = client.get("/v2/models/table", headers={"authorization": f"Bearer {key}"})
            assert got.status_code == status
        # Whether a model exists is not for keys of other models.
        hidden = client.get("/v2/models/nothing", headers={"authorization": f"Bearer {table}"})
        assert hidden.status_code == 403
        for key, status in ((metrics, 200), (table, 403)):
            got = client.get("/metrics", headers={"authorization": f"Bearer {key}"})
            assert got.status_code == status
        store.revoke(table[3:19])
        assert infer(client, "table", CODE, authorization=f"Bearer {table}").status_code == 401
        (tmp_path / "keys.json").write_text("{")
        assert infer(client, "dense", CODE, authorization=f"Bearer {dense}").status_code == 503
        assert client.get("/v2/health/live").status_code == 200


def test_a_spent_rate_is_429_for_that_key_only(tmp_path: Path) -> None:
    store = KeyStore(tmp_path / "keys.json")
    first, second = store.create("*"), store.create("*")
    with started(keys=store, limits=Limits(rate=0.01, burst=3)) as client:
        wait_ready(client)
        seen = [infer(client, "table", CODE, authorization=f"Bearer {first}") for _ in range(4)]
        assert [response.status_code for response in seen] == [200, 200, 200, 429]
        assert 1 <= int(seen[-1].headers["retry-after"]) <= 100
        assert infer(client, "table", CODE, authorization=f"Bearer {second}").status_code == 200


def test_nobody_is_served_by_accident() -> None:
    with pytest.raises(ConfigError, match="key store"):
        create_app(fake_models(), keys=None)
    with pytest.raises(ConfigError, match="at least one model"):
        create_app({}, keys=None, allow_anonymous=True)
    with pytest.raises(ConfigError, match="keyed by name"):
        create_app({"other": fake_models()["table"]}, keys=None, allow_anonymous=True)
    app = create_app(fake_models(), keys=None, allow_anonymous=True, log=ServiceLog(io.StringIO()))
    with TestClient(app, base_url="http://192.0.2.7") as client:
        assert client.get("/v2/models/table").status_code == 401


def test_ready_only_after_the_warm_up() -> None:
    class Sluggish(DenseHalf):
        def answer(self, request: Tensors) -> Tensors:
            time.sleep(0.3)
            return super().answer(request)

    with started(models={"dense": ServedModel(name="dense", half=Sluggish())}) as client:
        assert client.get("/v2/health/live").status_code == 200
        assert client.get("/v2/health/ready").json() == {"ready": False}
        refused = infer(client, "dense", {"x": np.zeros((1, 64), np.float32)})
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        wait_ready(client)


class WrongReply(DenseHalf):
    def answer(self, request: Tensors) -> Tensors:
        return {"logits": super().answer(request)["logits"].astype(np.float64)}


class OtherWidth(DenseHalf):
    """Weights of a model with another encoder: its specs promise 64 features."""

    def __init__(self) -> None:
        self.weight = np.zeros((32, 10), np.float32)


@pytest.mark.parametrize("half", [WrongReply(), OtherWidth()])
def test_a_half_that_does_not_fit_never_gets_ready(half: Any) -> None:
    log = io.StringIO()
    with started(models={"m": ServedModel(name="m", half=half)}, log=log) as client:
        with pytest.raises(BundleError, match="'m'"):
            client.portal.call(client.app.state.service.wait_warm)
        assert client.get("/v2/health/ready").status_code == 503
        assert infer(client, "m", {"x": np.zeros((1, 64), np.float32)}).status_code == 503
    assert "warm-up failed" in log.getvalue()


def test_client_files_are_offered_with_digests_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "client"
    folder.mkdir()
    (folder / "encoder.onnx").write_bytes(b"weights")
    (tmp_path / "secret").write_bytes(b"server weights")
    with started(client_files=folder) as client:
        manifest = client.get("/v2/models/table/client").json()
        assert [file["name"] for file in manifest["files"]] == ["encoder.onnx"]
        assert client.get("/v2/models/table/client/encoder.onnx").content == b"weights"
        for name in ("../secret", "..%2fsecret", "%2e%2e/secret", "secret", "encoder.onnx%00"):
            response = client.get(f"/v2/models/table/client/{name}")
            assert response.status_code in (404, 405)
            assert b"server weights" not in response.content
        assert client.get("/v2/models/dense/client").status_code == 404


def test_an_encoder_of_another_bundle_is_told_409(tmp_path: Path) -> None:
    folder = tmp_path / "client"
    folder.mkdir()
    (folder / "encoder.onnx").write_bytes(b"weights")
    with started(client_files=folder) as client:
        wait_ready(client)
        digest = client.get("/v2/models/table/client").json()["digest"]
        for claim, status in (
            (digest[:16], 200),
            (digest, 200),
            ("0" * 16, 409),
            ("", 409),
            (7, 409),
        ):
            body, length = encode_request(CODE, parameters={"reticent.client_digest": claim})
            response = client.post(
                "/v2/models/table/infer", content=body, headers={HEADER_LENGTH: str(length)}
            )
            assert response.status_code == status, claim


def test_metrics_count_outcomes_and_name_no_one(client: TestClient) -> None:
    for _ in range(3):
        infer(client, "table", CODE)
    infer(client, "table", {"code": np.zeros(2, np.int64)})
    infer(client, "broken", {"x": np.ones((1, 64), np.float32)})
    for index in range(5):
        infer(client, f"guess{index}", CODE)
    text = client.get("/metrics").text
    assert 'reticent_requests_total{model="table",outcome="ok"} 3.0' in text
    assert 'reticent_requests_total{model="table",outcome="refused"} 1.0' in text
    assert 'reticent_requests_total{model="broken",outcome="failed"} 1.0' in text
    assert 'reticent_requests_total{model="-",outcome="refused"} 5.0' in text
    assert 'reticent_request_seconds_bucket{le="+Inf",model="table"} 3.0' in text
    assert "reticent_ready 1.0" in text
    assert "_sum" not in text
    assert "guess" not in text
    assert "testclient" not in text


def test_every_route_is_in_the_openapi_document(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    described = {
        (path, method.upper())
        for path, item in document["paths"].items()
        for method in item
        if method in ("get", "post")
    }
    served = {
        (route.path, method)
        for route in client.app.routes
        for method in route.methods
        if method != "HEAD"
    }
    assert described == served
    json.dumps(document)


def test_reply_sizes_do_not_depend_on_the_code(client: TestClient) -> None:
    """Sizes are visible to anyone on the network: for a code channel they must be constant."""
    sizes = set()
    for code in range(CODES):
        body, length = encode_request({"code": np.array([code], np.uint8)})
        response = client.post(
            "/v2/models/table/infer", content=body, headers={HEADER_LENGTH: str(length)}
        )
        header = sum(len(k) + len(v) for k, v in response.headers.items())
        sizes.add((len(body), header, len(response.content)))
    assert len(sizes) == 1


def test_the_log_of_a_failing_request_names_the_place_only() -> None:
    log = io.StringIO()
    models = {"broken": ServedModel(name="broken", half=BrokenHalf())}
    with started(models=models, log=log) as client:
        wait_ready(client)
        infer(client, "broken", {"x": np.full((1, 64), 0.625, np.float32)})
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    assert [line["event"] for line in lines] == ["start", "ready", "failed", "stop"]
    assert lines[2]["error"] == "RuntimeError"
    assert "BrokenHalf.answer" in lines[2]["place"]
    assert "0.625" not in log.getvalue()


def test_wrong_keys_from_one_address_are_slowed_and_right_ones_still_answered(
    tmp_path: Path,
) -> None:
    keys = KeyStore(tmp_path / "keys.json")
    good = {"authorization": f"Bearer {keys.create('table')}"}
    log = io.StringIO()
    limits = Limits(failure_rate=1e-3, failure_burst=3)
    with started(keys=keys, limits=limits, log=log) as client:
        wait_ready(client)
        tried = [
            client.get("/v2/models/table", headers={"authorization": wrong})
            for wrong in ("Bearer rk_0.x", f"Bearer rk_{'0' * 16}.{'a' * 43}", "Basic eDp5", "", "")
        ]
        assert [response.status_code for response in tried] == [401, 401, 401, 429, 429]
        assert "wrong API keys" in error_of(tried[-1])
        assert int(tried[-1].headers["retry-after"]) > 1
        assert tried[-1].headers["connection"] == "close"
        assert infer(client, "table", CODE, authorization="Bearer rk_0.x").status_code == 429
        assert infer(client, "table", CODE, **good).status_code == 200
    assert "testclient" not in log.getvalue()
