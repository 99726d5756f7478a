"""One text at deeper and deeper layers, each going on from the one before: the caller stops when it is enough."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Transformer
from sentence_transformers.util import batch_to_device
from torch import Tensor, nn

from st_plugins.errors import InputError, SizeError
from st_plugins.exits.traces import wanted_prompt
from st_plugins.first_modules import elastic_transformer
from st_plugins.modules import ElasticTransformer
from st_plugins.stages import StagedRun
from st_plugins.views import shallow_copy


def encode_progressively(
    model: SentenceTransformer,
    text: str,
    layers: Sequence[int],
    *,
    truncate_dim: int | None = None,
    prompt: str | None = None,
    prompt_name: str | None = None,
    allow_untrained: bool = False,
) -> Iterator[tuple[int, np.ndarray]]:
    """Embed one text at several layers, one after the other; blocks run when the next vector is asked for.

    Taking all of them costs one pass to the deepest layer, and stopping early no more than the layer reached. It is for
    decisions that no criterion of ours knows, such as whether a search's best hit is far enough ahead of its second.

    Args:
        model: An elastic model; it is in evaluation mode afterwards, as after ``encode``.
        text: The text.
        layers: Ascending, in [1, L].
        truncate_dim: As for ``model.encode``.
        prompt: As for ``model.encode``.
        prompt_name: As for ``model.encode``.
        allow_untrained: Also at layers and dims the model was not trained for.

    Yields:
        tuple: A layer, and (D,) float32: what ``model.encode(text, layer=layer)`` gives.

    Raises:
        UnsupportedModelError: If the model is not elastic.
        SizeError: If layers are none, do not ascend, or one does not exist (or was not trained: UntrainedSizeError).
        InputError: If it is not one text, or the prompt's name is unknown.

    Example:
        >>> model = st_plugins.load("minilm-elastic")
        >>> for layer, vector in encode_progressively(model, "What is a budget?", [3, 6]):
        ...     print(layer, vector.shape)
        3 (384,)
        6 (384,)
    """
    first = elastic_transformer(model, "encode_progressively")
    layers = list(layers)
    if not layers or any(one >= other for one, other in pairwise(layers)):
        raise SizeError(f"layers must be some layers in ascending order, got {layers}.")
    if not isinstance(text, str):
        raise InputError(f"text must be one text, got {type(text).__name__}. For many use model.encode.")
    prompt = wanted_prompt(model, prompt_name, prompt)
    model.eval()
    for layer in layers:  # all of them, before anything is computed
        inputs = model.preprocess([text], prompt=prompt, layer=layer, allow_untrained=allow_untrained)
    dim = model.truncate_dim if truncate_dim is None else truncate_dim
    return _steps(model, first, batch_to_device(inputs, model.device), layers, dim, allow_untrained)


def _steps(
    model: SentenceTransformer,
    first: ElasticTransformer,
    inputs: dict[str, Any],
    layers: list[int],
    dim: int | None,
    allow_untrained: bool,
) -> Iterator[tuple[int, np.ndarray]]:
    network = _Resumed(first.model)
    for layer in layers:
        with torch.inference_mode():  # not around the yield: it would hold for the caller's own code
            network.layer = layer
            features = Transformer.forward(shallow_copy(first, model=network), dict(inputs))
            features["exit_layer"] = torch.tensor([layer], device=model.device)
            trained = tuple(width for depth, width in first.sizes if depth == layer)
            features["trained_dims"] = None if allow_untrained else trained
            for module in list(model)[1:]:
                features = module(features)
            if dim is not None:
                features["sentence_embedding"] = features["sentence_embedding"][..., :dim]
            vector = features["sentence_embedding"][0].float().cpu().numpy()
        yield layer, vector


class _Resumed(nn.Module):
    """Stands in for the network: every call goes on where the last one ended."""

    layer = 1

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.config = network.config
        self._run: StagedRun | None = None

    def forward(self, **inputs: Any) -> dict[str, Tensor]:  # what the network takes
        """The states of all tokens at ``layer``."""
        if self._run is None:
            self._run = StagedRun(self.network, inputs)
        return {"last_hidden_state": self._run.to(self.layer)[0]}
