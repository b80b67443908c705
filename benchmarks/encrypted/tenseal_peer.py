"""TenSEAL's own operations on the same layers; prints their CPU milliseconds.

Dense layers are its matrix products, a convolution is its im2col, which its tutorial uses.
"""

import json
import sys
import time

import numpy as np
import tenseal as ts

weights = np.load(sys.argv[1])
dense = sum(name.startswith("w") for name in weights.files)
kernels = weights["kernels"] if "kernels" in weights.files else []
# A level for each product; packing the channels into one vector takes one as well.
degree, middle = (16384, 2 * dense + 2) if len(kernels) else (8192, 2 * dense - 1)
context = ts.context(
    ts.SCHEME_TYPE.CKKS, poly_modulus_degree=degree,
    coeff_mod_bit_sizes=[40, *[30] * middle, 40], n_threads=1,
)  # fmt: skip
context.global_scale = 2**30
context.generate_galois_keys()
image = np.random.default_rng(0).uniform(0, 1, (28, 28))
windows = 0
if len(kernels):
    stride = int(weights["stride"])
    x, windows = ts.im2col_encoding(context, image.tolist(), *kernels.shape[2:], stride)
else:
    x = ts.ckks_vector(context, image.ravel().tolist())
start = time.process_time()
if len(kernels):
    channels = [
        x.conv2d_im2col(kernel[0].tolist(), windows) + float(bias)
        for kernel, bias in zip(kernels, weights["biases"], strict=True)
    ]
    x = ts.CKKSVector.pack_vectors(channels)
    x.square_()
for index in range(dense):
    if index:
        x.square_()
    x = x.mm(weights[f"w{index}"].T.tolist()) + weights[f"b{index}"].tolist()
print(json.dumps({"cpu_ms": 1000 * (time.process_time() - start), "size": x.size()}))
