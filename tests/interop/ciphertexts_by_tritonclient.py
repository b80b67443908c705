"""Runs in tritonclient's own environment: carries keys and ciphertexts that it can't read."""

import sys
import urllib.request
from pathlib import Path

import numpy as np
import tritonclient.http as http

host, folder = sys.argv[1], Path(sys.argv[2])
request = urllib.request.Request(
    f"http://{host}/v2/models/sealed/keys",
    data=(folder / "keys").read_bytes(),
    headers={"content-type": "application/octet-stream"},
    method="POST",
)
with urllib.request.urlopen(request) as reply:
    assert reply.status == 200
ciphertexts = np.array([path.read_bytes() for path in sorted(folder.glob("request*"))], object)
given = http.InferInput("ciphertext", list(ciphertexts.shape), "BYTES")
given.set_data_from_numpy(ciphertexts, binary_data=True)
client = http.InferenceServerClient(host, network_timeout=120)
answers = client.infer("sealed", [given]).as_numpy("answer")
for number, answer in enumerate(answers):
    (folder / f"reply{number}").write_bytes(answer)
