"""What every loss over several layers stands on: the elastic model behind its wrappers, and its embeddings."""

from sentence_transformers import SentenceTransformer
from torch import Tensor, nn

from st_plugins.errors import LossError
from st_plugins.modules import ElasticTransformer


def unwrapped(model: nn.Module) -> SentenceTransformer:
    """The model inside the wrappers of ``torch.compile`` and distributed training."""
    while not isinstance(model, SentenceTransformer):
        model = model._orig_mod if hasattr(model, "_orig_mod") else model.module
    return model


def elastic_transformer(model: nn.Module) -> ElasticTransformer:
    """The first module of an elastic model.

    Raises:
        LossError: If the model is not elastic.
    """
    first = unwrapped(model)[0]
    if not isinstance(first, ElasticTransformer):
        raise LossError(
            f"The loss needs an elastic model, got one that starts with {type(first).__name__}. "
            "Make it elastic with st_plugins.elastic(model) and give that model to the loss and to the trainer."
        )
    return first


def by_layer(embeddings: Tensor, layers: tuple[int, ...]) -> Tensor:
    """Undo the stacking of an elastic model that was asked for several layers.

    Args:
        embeddings: (S * B, D), layer by layer, the ``sentence_embedding`` of ``model({**features, "layers": layers})``.
            The encoder ran once for it, and its layers went through the model's own later modules as one batch, inside
            the model's own ``forward``: wrappers for distributed training and compilation see an ordinary call.
        layers: The S layers.

    Returns:
        Tensor: (B, S, D).

    Example:
        >>> model = st_plugins.load("minilm-elastic")
        >>> features = model.preprocess(["a", "b"])
        >>> by_layer(model({**features, "layers": (3, 6)})["sentence_embedding"], (3, 6)).shape
        torch.Size([2, 2, 384])
    """
    return embeddings.unflatten(0, (len(layers), -1)).transpose(0, 1)
