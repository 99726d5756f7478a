"""A model that evaluators can use unchanged and that encodes at one size."""

import time
from collections.abc import Hashable
from typing import Any

import numpy as np
from sentence_transformers import SentenceTransformer
from torch import Tensor

from st_plugins.errors import SizeError
from st_plugins.functional import truncate
from st_plugins.views import shallow_copy


class EncodingClock:
    """Full-width embeddings per layer, and the seconds they took; shared by the sizes of one evaluation.

    Dims of one layer are cuts of the same vectors, so each layer encodes a text once however many dims are evaluated.
    """

    def __init__(self) -> None:
        self.seconds: dict[tuple[int, str], float] = {}  # by layer and task, "query" or ""
        self._known: dict[Hashable, Any] = {}

    def encode(self, model: SentenceTransformer, layer: int, inputs: Any, arguments: dict[str, Any]) -> Any:
        """What ``model.encode(inputs, layer=layer, **arguments)`` gives, from memory if it was asked before."""
        key = (layer, question(inputs, arguments))
        if key not in self._known:
            started = time.perf_counter()
            self._known[key] = model.encode(inputs, layer=layer, allow_untrained=True, **arguments)
            spent = (layer, "query" if arguments.get("task") == "query" else "")
            self.seconds[spent] = self.seconds.get(spent, 0.0) + time.perf_counter() - started
        return self._known[key]

    def cost(self, layer: int, *, of_queries: bool) -> float:
        """Time of this layer as a fraction of the deepest one's; of the queries alone, or of all texts."""

        def total(layer: int) -> float:
            return sum(s for (at, task), s in self.seconds.items() if at == layer and (task or not of_queries))

        deepest = max((at for at, task in self.seconds if task or not of_queries), default=layer)
        return total(layer) / total(deepest) if total(deepest) else 1.0


def question(inputs: Any, arguments: dict[str, Any]) -> Hashable:
    """What a call of ``encode`` asks, to be remembered by: the same texts and arguments, and one text or a list."""
    return repr(sorted(arguments.items())), tuple(inputs) if isinstance(inputs, list) else inputs


def at_size(
    model: SentenceTransformer, query_layer: int, layer: int, dim: int, clock: EncodingClock
) -> SentenceTransformer:
    """A copy of an elastic model whose ``encode`` runs at one size; weights are shared.

    Args:
        model: Elastic.
        query_layer: Depth of what goes through ``encode_query``.
        layer: Depth of everything else.
        dim: Width of both.
        clock: Remembers embeddings and measures time.

    Returns:
        SentenceTransformer: For evaluators. Metrics stored through it do not reach the model's card.
    """
    sized, whole = shallow_copy(model), shallow_copy(model)
    whole.truncate_dim = None  # or the clock would remember vectors cut to the model's default

    def encode(inputs: Any, **arguments: Any) -> Any:  # the host's own arguments
        depth = query_layer if arguments.get("task") == "query" else layer
        return _cut(clock.encode(whole, depth, inputs, arguments), dim)

    sized.__dict__["encode"] = encode
    return without_card(sized)


def without_card(model: SentenceTransformer) -> SentenceTransformer:
    """The same object, which evaluators tell their metrics in vain: they are not the model's as a whole."""
    model.__dict__["model_card_data"] = _NoCard()
    return model


class _NoCard:
    def set_evaluation_metrics(self, *args: Any, **kwargs: Any) -> None:
        """One size of many says nothing about the model as a whole."""


def _cut(embeddings: Any, dim: int) -> Any:
    if isinstance(embeddings, list):
        return [_cut(row, dim) for row in embeddings]
    if embeddings.shape[-1] == dim:
        return embeddings
    if embeddings.shape[-1] < dim:
        raise SizeError(
            f"Vectors of every layer must have at least the dims evaluated, got dim={dim} where the model gives "
            f"{embeddings.shape[-1]}. Leave that dim or that layer out, or export the layer at full width."
        )
    if isinstance(embeddings, Tensor):
        return truncate(embeddings, dim)
    cut = embeddings[..., :dim]
    return cut / np.maximum(np.linalg.norm(cut, axis=-1, keepdims=True), 1e-12)
