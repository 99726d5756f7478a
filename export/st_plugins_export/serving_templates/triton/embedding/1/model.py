"""A Triton model of the python backend: texts in, sentence vectors out. How to start it: ../../../README.md.

It runs the graph by itself, so that texts of different requests and lengths share a batch.
"""

import json
import sys
from pathlib import Path
from typing import Any

import triton_python_backend_utils as triton


class TritonPythonModel:
    """What Triton looks for in this file."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the graph that config.pbtxt names."""
        parameters = json.loads(args["model_config"])["parameters"]
        settings = {name: value["string_value"] for name, value in parameters.items()}
        export = (Path(args["model_repository"]) / settings["export_folder"]).resolve()
        sys.path.append(str(export / "serving"))
        from text_embedder import TextEmbedder

        self._embedder = TextEmbedder(export, settings["graph"])

    def execute(self, requests: list[Any]) -> list[Any]:
        """One answer per request. A request that cannot be embedded gets an error of its own."""
        answers: list[Any] = [None] * len(requests)
        texts: dict[int, list[str]] = {}
        for position, request in enumerate(requests):
            raw = triton.get_input_tensor_by_name(request, "text").as_numpy()  # (B, 1) bytes
            try:
                texts[position] = [text.decode() for text in raw.reshape(-1)]
            except UnicodeDecodeError as error:
                answers[position] = _error(error)
        try:
            vectors = self._embedder.embed([text for given in texts.values() for text in given])  # (all B, dim)
        except ValueError:  # find out whose text it is
            for position, given in texts.items():
                try:
                    answers[position] = _answer(self._embedder.embed(given))
                except ValueError as error:
                    answers[position] = _error(error)
            return answers
        start = 0
        for position, given in texts.items():
            answers[position] = _answer(vectors[start : start + len(given)])
            start += len(given)
        return answers


def _answer(vectors: Any) -> Any:
    return triton.InferenceResponse(output_tensors=[triton.Tensor("sentence_embedding", vectors)])


def _error(error: Exception) -> Any:
    return triton.InferenceResponse(output_tensors=[], error=triton.TritonError(str(error)))
