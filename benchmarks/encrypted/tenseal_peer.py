"""TenSEAL's own matrix products on the same layers; prints their CPU milliseconds."""

import json
import sys
import time

import numpy as np
import tenseal as ts

weights = np.load(sys.argv[1])
count = len(weights.files) // 2
# A level for each matrix and each square; the rings are the smallest with so many bits.
degree, middle = (8192, 3) if count == 2 else (16384, 2 * count - 1)
context = ts.context(
    ts.SCHEME_TYPE.CKKS, poly_modulus_degree=degree,
    coeff_mod_bit_sizes=[40, *[30] * middle, 40], n_threads=1,
)  # fmt: skip
context.global_scale = 2**30
context.generate_galois_keys()
x = ts.ckks_vector(context, np.random.default_rng(0).uniform(0, 1, 784).tolist())
start = time.process_time()
for index in range(count):
    if index:
        x.square_()
    x = x.mm(weights[f"w{index}"].T.tolist()) + weights[f"b{index}"].tolist()
print(json.dumps({"cpu_ms": 1000 * (time.process_time() - start), "size": x.size()}))
