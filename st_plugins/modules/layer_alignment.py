"""Maps the sentence embeddings of shallow layers to where the full depth would have put them. Fits no maps."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from st_plugins.counts import check_counts
from st_plugins.errors import SizeError, UnsupportedModelError
from st_plugins.weighted_module import WeightedModule


class LayerAlignment(WeightedModule):
    """One affine map per layer, from its embeddings to those of the full depth; these themselves stay as they are.

    With e_k the embedding of a text at layer k, e'_k what this module makes of it::

        e'_k = (W_k e_k / ||e_k|| + b_k) / || W_k e_k / ||e_k|| + b_k ||          (D,), for the layers given
        e'_k = e_k                                                                 for all others

    So a query of few layers finds documents of full depth, and texts that left at different layers compare. The maps
    start as the identity; :func:`st_plugins.align_layers` puts the module into a model and fits them to texts in
    seconds, and any of our losses trains them further. :func:`st_plugins.bake` turns one into a ``Dense``.

    Args:
        embedding_dimension: D.
        layers: Layers with a map, ascending, without the full depth.

    Reads: ``sentence_embedding`` (B, D), of unit length at full depth, and ``exit_layer`` (B,), which
    :class:`~st_plugins.modules.ElasticTransformer` writes: each text is mapped by the layer it left at.

    Writes: ``sentence_embedding`` (B, D), of unit length where it was mapped.

    Raises:
        SizeError: If the dimension is not a positive integer, or the layers are none, not ascending, or below 1.
        ShapeError: If the embeddings are not D wide.
        UnsupportedModelError: If nothing says which layers they are of.

    References:
        Linear maps between layers: Din et al., *Jump to Conclusions*, https://arxiv.org/abs/2303.09435, and
        Belrose et al., *Tuned Lens*, https://arxiv.org/abs/2303.08112, there of token states of language models. Of
        sentence embeddings, per exit: ours.

    Example:
        >>> features = {"sentence_embedding": torch.eye(2), "exit_layer": torch.tensor([1, 3])}
        >>> alignment = LayerAlignment(2, layers=[1])
        >>> _ = alignment.weight.data.copy_(torch.tensor([[[0.0, 1.0], [2.0, 0.0]]]))
        >>> alignment(features)["sentence_embedding"]
        tensor([[0., 1.],
                [0., 1.]], grad_fn=...)
    """

    config_keys: ClassVar[list[str]] = ["embedding_dimension", "layers"]

    def __init__(self, embedding_dimension: int, layers: Sequence[int]) -> None:
        super().__init__()
        check_counts("LayerAlignment", embedding_dimension=embedding_dimension)
        layers = list(layers)
        for layer in layers:
            check_counts("LayerAlignment", layer=layer)
        if not layers or layers != sorted(set(layers)):
            raise SizeError(f"LayerAlignment needs at least one layer, in ascending order, got {layers}.")
        self.embedding_dimension = embedding_dimension
        self.layers = layers
        self.weight = nn.Parameter(torch.eye(embedding_dimension).repeat(len(layers), 1, 1))  # (S, D, D)
        self.bias = nn.Parameter(torch.zeros(len(layers), embedding_dimension))  # (S, D)

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:  # the host's per-call options
        """Map each row by its layer; see the class."""
        embeddings, exit_layer = self.given_embeddings(features), features.get("exit_layer")
        if exit_layer is None:
            raise UnsupportedModelError(
                "LayerAlignment must know the layer of every text, and got no exit_layer. Put it behind an "
                "ElasticTransformer: st_plugins.align_layers(st_plugins.elastic(model), texts)."
            )
        aligned, unit = embeddings, F.normalize(embeddings.to(self.weight.dtype), dim=-1)
        # No layer is looked for first: on a GPU that would wait for the encoder.
        for index, layer in enumerate(self.layers):
            mapped = F.normalize(F.linear(unit, self.weight[index], self.bias[index]), dim=-1).to(embeddings.dtype)
            aligned = torch.where((exit_layer == layer)[:, None], mapped, aligned)
        features["sentence_embedding"] = aligned
        return features

    def map_of(self, layer: int) -> tuple[Tensor, Tensor] | None:
        """W (D, D) and b (D,) of a layer; None if it has no map."""
        if layer not in self.layers:
            return None
        index = self.layers.index(layer)
        return self.weight[index].detach().clone(), self.bias[index].detach().clone()
