"""A Triton model of the python backend: texts in, tokens out. How to start it: ../../../README.md.

The texts of all waiting requests are padded to one length: Triton batches tensors of one shape only.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as triton
from tokenizers import Tokenizer

_FIELDS = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}


class TritonPythonModel:
    """What Triton looks for in this file."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open tokenizer.json, which lies beside this file."""
        self._tokenizer = Tokenizer.from_file(str(Path(__file__).with_name("tokenizer.json")))
        self._outputs = [tensor["name"] for tensor in json.loads(args["model_config"])["output"]]

    def execute(self, requests: list[Any]) -> list[Any]:
        """One answer per request. A request with a text that is not UTF-8 gets an error of its own."""
        answers: list[Any] = [None] * len(requests)
        texts: dict[int, list[str]] = {}
        for position, request in enumerate(requests):
            raw = triton.get_input_tensor_by_name(request, "text").as_numpy()  # (B, 1) bytes
            try:
                texts[position] = [text.decode() for text in raw.reshape(-1)]
            except UnicodeDecodeError as error:
                answers[position] = triton.InferenceResponse(output_tensors=[], error=triton.TritonError(str(error)))
        encodings = iter(self._tokenizer.encode_batch_fast([text for given in texts.values() for text in given]))
        for position, given in texts.items():
            own = [next(encodings) for _ in given]
            tensors = [
                triton.Tensor(name, np.array([getattr(encoding, _FIELDS[name]) for encoding in own], dtype=np.int64))
                for name in self._outputs
            ]  # each (B, T)
            answers[position] = triton.InferenceResponse(output_tensors=tensors)
        return answers
