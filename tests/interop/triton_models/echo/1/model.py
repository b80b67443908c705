"""Runs inside Triton: hands every tensor back, one of each type that V2 has."""

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Triton looks for this name."""

    def execute(self, requests):
        """Each input `x` comes back as `out_x`."""
        responses = []
        for request in requests:
            outputs = [
                pb_utils.Tensor(f"out_{tensor.name()}", tensor.as_numpy())
                for tensor in request.inputs()
            ]
            responses.append(pb_utils.InferenceResponse(output_tensors=outputs))
        return responses
