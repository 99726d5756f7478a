"""Encoding that tells where each text left. ``model.encode(texts, exit=...)`` gives the same vectors alone."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from torch import nn

from st_plugins.errors import ExitError, InputError
from st_plugins.first_modules import elastic_transformer
from st_plugins.located_errors import encode_located
from st_plugins.views import shallow_copy

# They decide what encode returns, or who computes it; here that is settled.
_SETTLED = frozenset({"output_value", "precision", "convert_to_numpy", "convert_to_tensor", "pool", "chunk_size"})


def encode_with_exits(
    model: SentenceTransformer, texts: Sequence[str], *, exit: str | float, **encode_arguments: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Embed texts, and say at which layer each one left.

    Args:
        model: An elastic model.
        texts: N texts.
        exit: Name of a policy, or a cosine.
        **encode_arguments: As for ``model.encode``: ``layer``, ``allow_untrained``, ``prompt_name``, ``prompt``,
            ``batch_size``, ``truncate_dim``, ``normalize_embeddings``, ``show_progress_bar``, ``device``.

    Returns:
        tuple: Embeddings (N, D) as ``model.encode`` gives them, float32, and layers (N,), integers.

    Raises:
        ExitError: If the exit cannot be taken, or an argument would change what is returned.
        InputError: If texts are none, or one cannot be embedded (``NonFiniteError``); names its position.
        UnsupportedModelError: If the model is not elastic.

    Example:
        >>> model = st_plugins.load("minilm-elastic")
        >>> vectors, layers = encode_with_exits(model, ["One", "Another"], exit=-1.0, allow_untrained=True)
        >>> vectors.shape, layers.tolist()
        ((2, 384), [2, 2])
    """
    elastic_transformer(model, "exits")
    if isinstance(texts, str) or not len(texts):
        raise InputError(f"texts must be a list of at least one text, got {texts!r}.")
    settled = sorted(_SETTLED & set(encode_arguments))
    if settled or isinstance(encode_arguments.get("device"), list):
        raise ExitError(
            "encode_with_exits returns numpy arrays, computed in this process; it takes no "
            f"{settled or 'list of devices'}. For those use model.encode(texts, exit=...)."
        )
    normalize = encode_arguments.pop("normalize_embeddings", False)
    reporting: Any = shallow_copy(model, ending=_Ending())
    encode = partial(reporting.encode, exit=exit, output_value=None, **encode_arguments)
    rows = encode_located(encode, texts)
    embeddings = torch.stack([row["sentence_embedding"] for row in rows]).float()
    if normalize:
        embeddings = nn.functional.normalize(embeddings, dim=-1)
    return embeddings.cpu().numpy(), torch.stack([row["exit_layer"] for row in rows]).cpu().numpy()


class _Ending(nn.Module):
    """Goes last, and drops what would otherwise be kept of every text: its token embeddings above all."""

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        for name in set(features) - {"sentence_embedding", "exit_layer", "trained_dims"}:
            del features[name]
        if features["trained_dims"] is not None:
            # sentence-transformers 5 takes everything that can be indexed for one entry per text.
            features["trained_dims"] = frozenset(features["trained_dims"])
        return features
