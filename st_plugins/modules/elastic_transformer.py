"""A Transformer that runs to any layer, chosen anew in every call."""

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from sentence_transformers.sentence_transformer.modules import Transformer
from torch import Tensor

from st_plugins.blocks import check_layer, find_blocks
from st_plugins.errors import SizeError, UnsupportedModelError, UntrainedSizeError
from st_plugins.views import normed_layers, recording_view, shallow_copy, view


class ElasticTransformer(Transformer):
    """sentence-transformers' ``Transformer`` with a depth per call: ``model.encode(texts, layer=3)``.

    It runs the first ``layer`` blocks and no others, then the family's final norm; any pooling can follow it. It does
    not choose the layer itself, and does not shorten vectors (see :class:`~st_plugins.modules.Truncation`). The layer
    is an argument, never a state, so several threads can use one model at several layers.

    Most people get one from :func:`st_plugins.elastic`; by hand it is built as ``Transformer`` is.

    Args:
        model_name_or_path: As for ``Transformer``.
        sizes: The sizes (layer, dim) the model was trained for, besides its full size. Layers outside it are refused
            unless ``allow_untrained=True``; our losses extend it when they train.
        **kwargs: As for ``Transformer``.

    Reads: what ``Transformer`` reads; in the call ``layer`` in [1, L] and ``allow_untrained``. Losses add the feature
    ``layers``, a tuple of S layers to read in one pass.

    Writes: ``token_embeddings`` (B, T, D), ``exit_layer`` (B,) and ``trained_dims``, the dims trained at that layer.
    With ``layers``, every row of every feature comes S times, layer by layer, so that the modules behind treat all
    layers as one batch of S * B rows.

    Raises:
        SizeError: If the layer does not exist.
        UntrainedSizeError: If it was not trained.
        UnsupportedModelError: If the architecture has no unique stack of blocks.

    References:
        Running to a chosen layer: 2D Matryoshka, https://arxiv.org/abs/2402.14776. Views: ours.

    Example:
        >>> model = st_plugins.elastic(SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2"))
        >>> model.encode("A text", layer=3, allow_untrained=True).shape
        (384,)
    """

    # All hashable: sentence-transformers silently drops prompt masking when an encode argument is not.
    forward_kwargs: ClassVar[set[str]] = {"layer", "allow_untrained"}
    config_keys: ClassVar[list[str]] = [*Transformer.config_keys, "sizes"]

    def __init__(self, model_name_or_path: str, *, sizes: Iterable[tuple[int, int]] = (), **kwargs: Any) -> None:
        super().__init__(model_name_or_path, **kwargs)
        self.sizes: list[list[int]] = []
        self.add_sizes(sizes)

    @classmethod
    def from_transformer(cls, transformer: Transformer, sizes: Iterable[tuple[int, int]] = ()) -> "ElasticTransformer":
        """The elastic form of a loaded ``Transformer``; weights and tokenizer are shared, nothing is read again.

        Args:
            transformer: The module to wrap; left as it is.
            sizes: See the class.

        Returns:
            ElasticTransformer: The same computation at full depth.
        """
        elastic = object.__new__(cls)
        elastic.__dict__.update(transformer.__dict__)
        elastic.__dict__["_modules"] = dict(transformer._modules)
        elastic.sizes = []
        elastic.add_sizes(sizes)
        return elastic

    @property
    def depth(self) -> int:
        """Number of blocks, L."""
        return find_blocks(self.model).depth

    def add_sizes(self, sizes: Iterable[tuple[int, int]]) -> None:
        """Record sizes (layer, dim) as trained. They are saved with the model.

        Raises:
            SizeError: If one is not a pair of an existing layer and a positive dim.
        """
        depth = self.depth
        pairs = []
        for size in sizes:
            if not isinstance(size, (tuple, list)) or len(size) != 2:
                raise SizeError(f"sizes must be pairs (layer, dim), got {size!r}.")
            layer, dim = size
            check_layer(layer, depth)
            if not isinstance(dim, int) or isinstance(dim, bool) or dim < 1:
                raise SizeError(f"dim must be a positive integer, got {dim!r} in size {size!r}.")
            pairs.append([layer, dim])
        self.sizes = sorted([list(pair) for pair in {tuple(pair) for pair in self.sizes + pairs}])

    def trained_layers(self) -> list[int]:
        """The layers that may be used, the full depth included."""
        return sorted({layer for layer, _ in self.sizes} | {self.depth})

    def preprocess(
        self,
        inputs: Any,
        prompt: str | None = None,
        *,
        layer: int | None = None,
        allow_untrained: bool = False,
        **kwargs: Any,  # the host's per-call options
    ) -> dict[str, Any]:
        """As ``Transformer.preprocess``; refuses a layer before anything is computed."""
        self._check_trained(layer, allow_untrained)
        return super().preprocess(inputs, prompt=prompt, **kwargs)

    def forward(
        self,
        features: dict[str, Any],
        layer: int | None = None,
        allow_untrained: bool = False,
        **kwargs: Any,  # what the host adds for the model itself
    ) -> dict[str, Any]:
        """Run to ``layer`` (default: full depth). See the class."""
        features = dict(features)
        if "layers" in features:
            return self._forward_layers(features, features.pop("layers"), **kwargs)
        layer = self._check_trained(layer, allow_untrained)
        runner = self
        if layer < self.depth:
            runner = shallow_copy(self, model=view(self.model, layer))
        features = Transformer.forward(runner, features, **kwargs)
        features["exit_layer"] = _rows(features).new_full((len(_rows(features)),), layer, dtype=torch.long)
        features["trained_dims"] = None if allow_untrained else self._trained_dims(layer)
        return features

    def __repr__(self) -> str:
        return f"Elastic{super().__repr__()}"

    def _forward_layers(self, features: dict[str, Any], layers: tuple[int, ...], **kwargs: Any) -> dict[str, Any]:
        if "cu_seq_lens_q" in features:
            raise UnsupportedModelError(
                "Reading several layers needs padded inputs, got flattened (unpadded) ones. "
                "Set model[0].unpad_inputs = False for training."
            )
        depth = self.depth
        for layer in layers:
            check_layer(layer, depth)
        recording, states = recording_view(self.model)
        features = Transformer.forward(shallow_copy(self, model=recording), features, **kwargs)
        shallow = [layer for layer in layers if layer < depth]
        normed = dict(zip(shallow, normed_layers(self.model, [states[layer - 1] for layer in shallow]), strict=True))
        rows = len(_rows(features))
        # The last layer is the model's own output, which has its final norm already.
        chosen = [normed.get(layer, features["token_embeddings"]) for layer in layers]
        repeated = {key: _repeat(value, rows, len(layers)) for key, value in features.items()}
        repeated["token_embeddings"] = torch.cat(chosen)  # (S * B, T, D)
        repeated["exit_layer"] = torch.tensor(layers, device=chosen[0].device).repeat_interleave(rows)
        repeated["trained_dims"] = None  # the loss that asked is the one that trains them
        return repeated

    def _check_trained(self, layer: int | None, allow_untrained: bool) -> int:
        depth = self.depth
        if layer is None:
            return depth
        check_layer(layer, depth)
        if not allow_untrained and layer not in self.trained_layers():
            raise UntrainedSizeError(
                f"layer must be one the model was trained for, {self.trained_layers()}, got {layer}. Train it with "
                "st_plugins.losses.ElasticLoss; if it was trained elsewhere, say so: st_plugins.elastic(model, "
                "sizes=[(layer, dim), ...]); or pass allow_untrained=True to run it all the same."
            )
        return layer

    def _trained_dims(self, layer: int) -> tuple[int, ...]:
        return tuple(dim for trained_layer, dim in self.sizes if trained_layer == layer)


def _rows(features: dict[str, Any]) -> Tensor:
    """A tensor with one row per text, for its length and device."""
    if "cu_seq_lens_q" in features:
        return features["cu_seq_lens_q"][1:]
    return features["token_embeddings"]


def _repeat(value: Any, rows: int, times: int) -> Any:
    if isinstance(value, Tensor) and value.ndim > 0 and value.shape[0] == rows:
        return value.repeat(times, *[1] * (value.ndim - 1))
    return value
