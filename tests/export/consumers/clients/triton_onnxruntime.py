"""What Triton's onnxruntime backend does, as a model of the python backend: runs model.onnx on each request."""

from pathlib import Path

import onnxruntime
import triton_python_backend_utils as triton


class TritonPythonModel:
    def initialize(self, args):
        self.session = onnxruntime.InferenceSession(str(Path(__file__).with_name("model.onnx")))
        self.inputs = [tensor.name for tensor in self.session.get_inputs()]

    def execute(self, requests):
        answers = []
        for request in requests:
            tensors = {name: triton.get_input_tensor_by_name(request, name).as_numpy() for name in self.inputs}
            (vectors,) = self.session.run(["sentence_embedding"], tensors)
            answers.append(triton.InferenceResponse(output_tensors=[triton.Tensor("sentence_embedding", vectors)]))
        return answers
