"""Runs in tritonclient's own environment: carries keys and ciphertexts that it can't read."""

import ssl
import sys
import urllib.request
from pathlib import Path

import numpy as np
import tritonclient.http as http

host, model, folder, certificate, key = *sys.argv[1:3], Path(sys.argv[3]), *sys.argv[4:6]
authorized = {"Authorization": f"Bearer {key}"}


def trusting():
    return ssl.create_default_context(cafile=certificate)


request = urllib.request.Request(
    f"https://{host}/v2/models/{model}/keys",
    data=(folder / "keys").read_bytes(),
    headers={"content-type": "application/octet-stream", **authorized},
    method="POST",
)
with urllib.request.urlopen(request, context=trusting()) as reply:
    assert reply.status == 200
ciphertexts = np.array([path.read_bytes() for path in sorted(folder.glob("request*"))], object)
given = http.InferInput("ciphertext", list(ciphertexts.shape), "BYTES")
given.set_data_from_numpy(ciphertexts, binary_data=True)
client = http.InferenceServerClient(
    host, network_timeout=120, ssl=True, ssl_context_factory=trusting
)
try:
    client.infer(model, [given])
except http.InferenceServerException as error:
    print(error)
answers = client.infer(model, [given], headers=authorized).as_numpy("answer")
for number, answer in enumerate(answers):
    (folder / f"reply{number}").write_bytes(answer)
