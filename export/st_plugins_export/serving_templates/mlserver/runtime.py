"""An MLServer runtime: texts in, sentence vectors out, over the V2 (KServe) protocol. How to start it: ../README.md."""

import sys
from pathlib import Path

from mlserver import MLModel
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.errors import InferenceError
from mlserver.types import InferenceRequest, InferenceResponse
from mlserver.utils import get_model_uri

sys.path.append(str(Path(__file__).resolve().parent.parent))
from text_embedder import TextEmbedder


class TextEmbedding(MLModel):
    """What model-settings.json names."""

    async def load(self) -> bool:
        """Open the graph that model-settings.json names."""
        settings = self._settings.parameters
        self._embedder = TextEmbedder(await get_model_uri(self._settings), settings.extra["graph"])
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """The vectors of the texts of one request, or of several that MLServer has put together."""
        texts = StringCodec.decode_input(payload.inputs[0])
        try:
            vectors = self._embedder.embed(texts)  # (N, dim)
        except ValueError as error:
            raise InferenceError(str(error)) from error
        return InferenceResponse(
            model_name=self.name, outputs=[NumpyCodec.encode_output("sentence_embedding", vectors)]
        )
