"""Texts to sentence vectors, with numpy, tokenizers and onnxruntime. The Triton and MLServer files beside it use it.

It adds no prompt: put one in front of the texts. To try it, in the folder above this one::

    python serving/text_embedder.py . "How do I sort a list?"
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

# Texts per run. They are sorted by length before, so a batch holds little padding.
_BATCH = 32


class TextEmbedder:
    """An exported model. Threads may share it.

    Args:
        folder: The export.
        graph: Which of its graphs.
    """

    def __init__(self, folder: str | Path, graph: str = "onnx/model.onnx") -> None:
        # The file says where texts are cut, and how they are padded.
        self._tokenizer = Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
        available = onnxruntime.get_available_providers()
        providers = [name for name in ("CUDAExecutionProvider", "CPUExecutionProvider") if name in available]
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # waiting threads leave the cores free
        self._session = onnxruntime.InferenceSession(str(Path(folder) / graph), options, providers=providers)
        self._inputs = [tensor.name for tensor in self._session.get_inputs()]
        self.dim = self._session.get_outputs()[1].shape[-1]

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """The vectors of N texts, (N, dim) float32.

        Raises:
            ValueError: If a text is not valid Unicode or has no token, or a vector is not finite.
        """
        vectors = np.empty((len(texts), self.dim), dtype=np.float32)
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        for start in range(0, len(order), _BATCH):
            rows = order[start : start + _BATCH]
            vectors[rows] = self._run([texts[index] for index in rows])
        if not np.isfinite(vectors).all():
            raise ValueError("The model gave a vector that is not finite.")
        return vectors

    def _run(self, texts: list[str]) -> np.ndarray:
        try:
            encodings = self._tokenizer.encode_batch_fast(texts)
        except TypeError:
            raise ValueError("A text must be valid Unicode, and one is not.") from None
        if not all(any(encoding.attention_mask) for encoding in encodings):
            raise ValueError("A text must have at least one token, and one has none.")
        tensors = {
            "input_ids": [encoding.ids for encoding in encodings],
            "attention_mask": [encoding.attention_mask for encoding in encodings],
            "token_type_ids": [encoding.type_ids for encoding in encodings],
        }  # each (B, T)
        inputs = {name: np.array(tensors[name], dtype=np.int64) for name in self._inputs}
        return self._session.run(["sentence_embedding"], inputs)[0]  # (B, dim)


if __name__ == "__main__":
    sys.stdout.write(f"{TextEmbedder(sys.argv[1]).embed(sys.argv[2:])}\n")
