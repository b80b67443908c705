"""Runs inside Triton: the same head as `DenseHalf` in tests/service."""

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Triton looks for this name."""

    def initialize(self, args):
        """The same weights: numpy draws the same from a seed in all its versions since 1.17."""
        self.weight = np.random.default_rng(8).normal(size=(64, 10)).astype(np.float32)

    def execute(self, requests):
        """One response per request."""
        responses = []
        for request in requests:
            x = pb_utils.get_input_tensor_by_name(request, "x").as_numpy()
            logits = pb_utils.Tensor("logits", x @ self.weight)
            responses.append(pb_utils.InferenceResponse(output_tensors=[logits]))
        return responses
