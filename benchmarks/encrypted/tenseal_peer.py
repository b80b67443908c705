"""TenSEAL's own matrix product on the same two layers; prints its CPU milliseconds."""

import json
import sys
import time

import numpy as np
import tenseal as ts

weights = np.load(sys.argv[1])
context = ts.context(
    ts.SCHEME_TYPE.CKKS, poly_modulus_degree=8192, coeff_mod_bit_sizes=[40, 30, 30, 30, 40],
    n_threads=1,
)  # fmt: skip
context.global_scale = 2**30
context.generate_galois_keys()
x = ts.ckks_vector(context, np.random.default_rng(0).uniform(0, 1, 784).tolist())
start = time.process_time()
hidden = x.mm(weights["w1"].T.tolist()) + weights["b1"].tolist()
hidden.square_()
answer = hidden.mm(weights["w2"].T.tolist()) + weights["b2"].tolist()
print(json.dumps({"cpu_ms": 1000 * (time.process_time() - start), "size": answer.size()}))
