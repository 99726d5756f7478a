"""A frozen model beside the one that is trained: a teacher, or a guide."""

from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.losses import CachedLossMixin
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from torch import Tensor, nn

from st_plugins.errors import LossError


@torch.no_grad()
def embed_frozen(frozen: SentenceTransformer, features: dict[str, Any], mini_batch_size: int | None) -> Tensor:
    """The embeddings (B, D') that a frozen model has for one column, without a gradient.

    Args:
        frozen: The model. It is put into evaluation mode, as the trainer puts a whole loss into training mode.
        features: The column, as the trainer's collator makes it; left as it is.
        mini_batch_size: How many texts the memory is for; None for all.

    Returns:
        Tensor: (B, D').

    Example:
        >>> model = SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2")
        >>> embed_frozen(model, model.preprocess(["a", "b", "c"]), mini_batch_size=2).shape
        torch.Size([3, 384])
    """
    frozen.eval()
    # Modules may write into what they are given: a pooling that leaves out the prompt, into the attention mask.
    features = {name: value.clone() if isinstance(value, Tensor) else value for name, value in features.items()}
    if mini_batch_size is None or isinstance(frozen[0], StaticEmbedding):  # whose batches cannot be cut
        return frozen(features)["sentence_embedding"]
    parts = _Parts(frozen, mini_batch_size).embed_minibatch_iter(features, with_grad=False, copy_random_state=False)
    return torch.cat([part for part, _ in parts])


def check_own_weights(name: str, frozen: nn.Module, model: nn.Module) -> None:
    """Raise :class:`~st_plugins.errors.LossError` if a frozen model shares weights with the one that is trained."""
    if {*frozen.parameters()} & {*model.parameters()}:
        raise LossError(
            f"{name} must have weights of its own, this one shares some with the model and would be trained with it. "
            "Pass copy.deepcopy(model)."
        )


class _Parts(CachedLossMixin):
    """Cuts a column into mini-batches as the host does."""

    def __init__(self, model: SentenceTransformer, mini_batch_size: int) -> None:
        self.model = model
        self.mini_batch_size = mini_batch_size
