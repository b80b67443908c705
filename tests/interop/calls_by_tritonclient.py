"""Runs in tritonclient's own environment: calls a V2 server, prints what came as JSON."""

import json
import sys

import numpy as np
import tritonclient
import tritonclient.http as http

host, key = sys.argv[1:3]
headers = {"Authorization": f"Bearer {key}"}
client = http.InferenceServerClient(host)
x = np.arange(3 * 64, dtype=np.float32).reshape(3, 64) / 100


def infer(model, name, value, datatype, *, binary_in, binary_out, output):
    given = http.InferInput(name, list(value.shape), datatype)
    given.set_data_from_numpy(value, binary_data=binary_in)
    wanted = None if output is None else [http.InferRequestedOutput(output, binary_data=binary_out)]
    # A copy: the client writes the head length into the headers that it is given.
    reply = client.infer(model, [given], outputs=wanted, headers=dict(headers), request_id="q1")
    name = output or reply.get_response()["outputs"][0]["name"]
    return reply.as_numpy(name), reply.get_response()


def refused(call):
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "not refused"


results = {"live": client.is_server_live(), "ready": client.is_server_ready()}
results["model_ready"] = client.is_model_ready("dense", headers=headers)
results["extensions"] = client.get_server_metadata()["extensions"]
results["metadata"] = client.get_model_metadata("dense", headers=headers)
forms = {
    "binary": {"binary_in": True, "binary_out": True, "output": "logits"},
    "json": {"binary_in": False, "binary_out": False, "output": "logits"},
    "binary in, json out": {"binary_in": True, "binary_out": False, "output": "logits"},
    "json in, binary out": {"binary_in": False, "binary_out": True, "output": "logits"},
    "default": {"binary_in": True, "binary_out": True, "output": None},
}
results["logits"], results["ids"] = {}, {}
for form, options in forms.items():
    logits, response = infer("dense", "x", x, "FP32", **options)
    results["logits"][form] = logits.tolist()
    results["ids"][form] = response.get("id")
cipher = np.array([b"\x00\xff ciphertext", b""], dtype=object)
echoed, _ = infer(
    "echo", "cipher", cipher, "BYTES", binary_in=True, binary_out=True, output="cipher"
)
results["bytes"] = [element.hex() for element in echoed.tolist()]
codes = np.array([3, 1], dtype=np.uint8)
scores, _ = infer("table", "code", codes, "UINT8", binary_in=True, binary_out=True, output="scores")
results["scores"] = scores.tolist()
results["wrong shape"] = refused(
    lambda: infer("dense", "x", x[:, :3].copy(), "FP32", **forms["binary"])
)
results["no key"] = refused(lambda: client.get_model_metadata("dense"))
results["version"] = tritonclient.__version__ if hasattr(tritonclient, "__version__") else ""
print(json.dumps(results))
