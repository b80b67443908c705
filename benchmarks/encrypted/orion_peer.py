"""Orion v2 (Lattigo) on the same layers; prints the CPU milliseconds of a query, and its answer.

One ciphertext, hoisted rotations, its own layout; the smallest ring with enough bits. Secrets are
ternary without a fixed weight, as ours are.
"""

import json
import sys
import time

import numpy as np
import orion_compiler.nn as on
import torch
from lattigo import ckks, rlwe
from orion_compiler import CKKSParams, Compiler
from orion_evaluator import Evaluator, Model

weights = np.load(sys.argv[1])
dense = sum(name.startswith("w") for name in weights.files)
kernels = weights["kernels"] if "kernels" in weights.files else None


class Network(on.Module):
    """A convolution, where there is one, then dense layers with squares between."""

    def __init__(self):
        super().__init__()
        if kernels is not None:
            self.conv = on.Conv2d(1, len(kernels), kernels.shape[2], stride=int(weights["stride"]))
            self.first = on.Quad()
        self.flatten = on.Flatten()
        for index in range(dense):
            outputs, inputs = weights[f"w{index}"].shape
            setattr(self, f"fc{index}", on.Linear(inputs, outputs))
            if index < dense - 1:
                setattr(self, f"square{index}", on.Quad())

    def forward(self, x):
        """(1, 1, 28, 28) to (1, outputs)."""
        if kernels is not None:
            x = self.first(self.conv(x))
        x = self.flatten(x)
        for index in range(dense):
            x = getattr(self, f"fc{index}")(x)
            if index < dense - 1:
                x = getattr(self, f"square{index}")(x)
        return x


network = Network()
with torch.no_grad():
    if kernels is not None:
        network.conv.weight.copy_(torch.from_numpy(kernels))
        network.conv.bias.copy_(torch.from_numpy(weights["biases"]))
    for index in range(dense):
        layer = getattr(network, f"fc{index}")
        layer.weight.copy_(torch.from_numpy(weights[f"w{index}"]))
        layer.bias.copy_(torch.from_numpy(weights[f"b{index}"]))
bits, special = ([55, 35, 35, 35], 55) if kernels is None else ([38, *[29] * 5], 35)
params = CKKSParams(
    logn=13, logq=bits, logp=[special], log_default_scale=bits[-1], h=5461, ring_type="standard"
)
image = torch.from_numpy(np.random.default_rng(0).uniform(0, 1, (1, 1, 28, 28))).float()
compiler = Compiler(network, params)
compiler.fit(image)
model = Model.load(compiler.compile().to_bytes())
settings, manifest, level = model.client_params()
made = ckks.Parameters.from_dict(settings)
keygen = rlwe.KeyGenerator(made)
secret = keygen.gen_secret_key()
encryptor = rlwe.Encryptor(made, keygen.gen_public_key(secret))
relin = keygen.gen_relin_key(secret) if manifest["needs_rlk"] else None
galois = [keygen.gen_galois_key(secret, element) for element in manifest["galois_elements"]]
keys = rlwe.MemEvaluationKeySet(relin, galois).marshal_binary()
encoder = ckks.Encoder(made)
slots = image.flatten().double().tolist()
slots += [0.0] * (made.max_slots() - len(slots))
request = encryptor.encrypt_new(encoder.encode(slots, level, made.default_scale())).marshal_binary()
evaluator = Evaluator(settings, keys)
times = []
for _ in range(10):
    start = time.process_time()
    (reply,) = evaluator.forward(model, [request])
    times.append(1000 * (time.process_time() - start))
opened = rlwe.Decryptor(made, secret).decrypt_new(rlwe.Ciphertext.unmarshal_binary(reply))
answer = np.array(encoder.decode(opened, made.max_slots()))[: len(weights[f"b{dense - 1}"])]
with torch.no_grad():
    error = float(np.abs(answer - network(image).numpy().ravel()).max())
found = {"cpu_ms": float(np.median(times)), "upload": len(request), "keys": len(keys)}
print(json.dumps({**found, "galois_keys": len(galois), "error": error}))
