"""Concrete-ML on the same dense layers with ReLU between; prints CPU milliseconds of a query.

Weights and activations of 6 bits, quantised on random images; one query, since it takes its time.
"""

import functools
import json
import sys
import time

import numpy as np
import torch
from torch import nn

# Concrete-ML reads the graphs of the exporter that was the default when it was released.
torch.onnx.export = functools.partial(torch.onnx.export, dynamo=False)

from concrete.ml.torch.compile import compile_torch_model  # noqa: E402

weights = np.load(sys.argv[1])
dense = sum(name.startswith("w") for name in weights.files)
layers = []
for index in range(dense):
    outputs, inputs = weights[f"w{index}"].shape
    layer = nn.Linear(inputs, outputs)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weights[f"w{index}"]))
        layer.bias.copy_(torch.from_numpy(weights[f"b{index}"]))
    layers += [layer, nn.ReLU()]
network = nn.Sequential(*layers[:-1]).eval()
images = np.random.default_rng(0).uniform(0, 1, (200, weights["w0"].shape[1]))
images = images.astype(np.float32)
made = compile_torch_model(network, torch.from_numpy(images), n_bits=6, rounding_threshold_bits=6)
start = time.perf_counter()
made.fhe_circuit.keygen()
keygen = time.perf_counter() - start
quantised = made.quantize_input(images[:1])
request = made.fhe_circuit.encrypt(quantised)
cpu, wall = time.process_time(), time.perf_counter()
reply = made.fhe_circuit.run(request)
found = {
    "cpu_ms": 1000 * (time.process_time() - cpu),
    "wall_ms": 1000 * (time.perf_counter() - wall),
    "keygen_s": keygen,
}
print(json.dumps(found))
