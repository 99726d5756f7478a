"""A Transformer that runs to any layer, chosen anew in every call or by each text."""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from sentence_transformers.sentence_transformer.modules import Transformer
from torch import Tensor

from st_plugins.blocks import check_layer, find_blocks
from st_plugins.counts import is_count
from st_plugins.errors import ExitError, SizeError, UnsupportedModelError, UntrainedSizeError
from st_plugins.exit_criteria import Saturation
from st_plugins.exit_policies import ExitPolicy, policy_from_dict
from st_plugins.exit_run import ExitRun
from st_plugins.refused_texts import refused_texts, with_tokens
from st_plugins.unmasking import check_windows, restore_attention
from st_plugins.views import normed_layers, recording_view, shallow_copy, view
from st_plugins.weight_digests import weights_digest


class ElasticTransformer(Transformer):
    """sentence-transformers' ``Transformer`` with a depth per call: ``model.encode(texts, layer=3)``.

    It runs the first ``layer`` blocks and no others, then the family's final norm; any pooling can follow it. With
    ``exit`` each text leaves at a layer of its own: ``exit="balanced"`` is a policy saved with the model (see
    :func:`st_plugins.exits.calibrate_exits`), ``exit=0.98`` leaves where the mean token embeddings of two layers in a
    row have that cosine. It does not shorten vectors (see :class:`~st_plugins.modules.Truncation`). Layer and exit are
    arguments, never states, so several threads can use one model at several layers.

    Most people get one from :func:`st_plugins.elastic`; by hand it is built as ``Transformer`` is.

    Args:
        model_name_or_path: As for ``Transformer``.
        sizes: The sizes (layer, dim) the model was trained for, besides its full size. Layers outside it are refused
            unless ``allow_untrained=True``; our losses extend it when they train.
        **kwargs: As for ``Transformer``.

    Reads: what ``Transformer`` reads; in the call ``layer`` in [1, L], ``exit`` and ``allow_untrained``. With ``exit``,
    ``layer`` is the deepest layer any text may reach; a certificate is about none. Losses add the feature ``layers``, a
    tuple of S layers to read in one pass.

    Writes: ``token_embeddings`` (B, T, D), ``exit_layer`` (B,) and ``trained_dims``, the dims trained at that layer;
    with ``exit``, zeros in place of padding, and the dims trained at every layer a text may leave at.
    With ``layers``, every row of every feature comes S times, layer by layer, so that the modules behind treat all
    layers as one batch of S * B rows.

    Raises:
        SizeError: If the layer does not exist.
        UntrainedSizeError: If it was not trained.
        ExitError: If there is no such policy, it was calibrated for other weights, or the model is in training mode.
        UnsupportedModelError: If the architecture has no unique stack of blocks, or cannot run in stages.

    References:
        Running to a chosen layer: 2D Matryoshka, https://arxiv.org/abs/2402.14776. Views: ours.

    Example:
        >>> model = st_plugins.elastic(SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2"))
        >>> model.encode("A text", layer=3, allow_untrained=True).shape
        (384,)
    """

    # All hashable: sentence-transformers silently drops prompt masking when an encode argument is not.
    forward_kwargs: ClassVar[set[str]] = {"layer", "exit", "allow_untrained"}
    config_keys: ClassVar[list[str]] = [*Transformer.config_keys, "sizes", "exit_policies"]

    def __init__(
        self,
        model_name_or_path: str,
        *,
        sizes: Iterable[tuple[int, int]] = (),
        exit_policies: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(model_name_or_path, **kwargs)
        restore_attention(self)
        self.sizes: list[list[int]] = []
        self.exit_policies: dict[str, ExitPolicy] = {}
        self.add_sizes(sizes)
        for name, content in (exit_policies or {}).items():
            self.add_exit_policy(policy_from_dict(name, content))

    @classmethod
    def from_transformer(cls, transformer: Transformer, sizes: Iterable[tuple[int, int]] = ()) -> "ElasticTransformer":
        """The same computation as a loaded ``Transformer``; weights and tokenizer are shared, nothing is read again.

        Args:
            transformer: The module to wrap; left as it is.
            sizes: See the class.
        """
        elastic = object.__new__(cls)
        elastic.__dict__.update(transformer.__dict__)
        elastic.__dict__["_modules"] = dict(transformer._modules)
        elastic.__dict__.pop("forward", None)  # the host's AdaptiveLayerLoss leaves one that would hide our own
        elastic.sizes = []
        elastic.exit_policies = {}
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
            if not is_count(dim):
                raise SizeError(f"dim must be a positive integer, got {dim!r} in size {size!r}.")
            pairs.append([layer, dim])
        self.sizes = sorted([list(pair) for pair in {tuple(pair) for pair in self.sizes + pairs}])

    def trained_layers(self) -> list[int]:
        """The layers that may be used, the full depth included."""
        return sorted({layer for layer, _ in self.sizes} | {self.depth})

    def add_exit_policy(self, policy: ExitPolicy) -> None:
        """Keep a policy for ``exit=policy.name``; it is saved with the model. One of the same name is replaced.

        Raises:
            SizeError: If one of its layers does not exist.
        """
        for layer in policy.layers:
            check_layer(layer, self.depth)
        self.exit_policies = {**self.exit_policies, policy.name: policy}

    def exit_policy(self, exit: str | float, *, allow_untrained: bool = False) -> ExitPolicy:
        """The policy that an ``exit`` argument means.

        Args:
            exit: A name, or a threshold for :class:`~st_plugins.exits.Saturation` at the trained layers.
            allow_untrained: A threshold then means all layers.

        Raises:
            ExitError: If there is no such policy.
            UntrainedSizeError: If the model was trained for no layer to leave at.
        """
        if isinstance(exit, str):
            if exit not in self.exit_policies:
                raise ExitError(
                    f"exit must be the name of a policy of this model, {sorted(self.exit_policies)}, got {exit!r}. "
                    "Make one with st_plugins.exits.calibrate_exits(model, texts, ...), or pass a cosine as a number."
                )
            return self.exit_policies[exit]
        if not isinstance(exit, float):
            raise ExitError(
                f"exit must be the name of a policy or a cosine like 0.98, got {exit!r}. "
                "For the same depth for all texts pass layer=..."
            )
        layers = range(1, self.depth + 1) if allow_untrained else self.trained_layers()
        if len(layers) < 2:
            raise UntrainedSizeError(
                f"exit needs a model trained at layers below {self.depth} to leave at, this one was trained at none. "
                "Train it with st_plugins.losses.ElasticLoss; or pass allow_untrained=True to leave anywhere."
            )
        return ExitPolicy(str(exit), Saturation(), exit, tuple(layers))

    def get_config_dict(self) -> dict[str, Any]:
        """As ``Transformer.get_config_dict``. Without policies it is what a release without exits reads."""
        config = super().get_config_dict()
        del config["exit_policies"]
        if self.exit_policies:
            config["exit_policies"] = {name: policy.as_dict() for name, policy in self.exit_policies.items()}
        return config

    def preprocess(
        self,
        inputs: Any,
        prompt: str | None = None,
        *,
        layer: int | None = None,
        exit: str | float | None = None,
        allow_untrained: bool = False,
        **kwargs: Any,  # the host's per-call options
    ) -> dict[str, Any]:
        """As ``Transformer.preprocess``; refuses a layer, an exit or a text before anything is computed."""
        check_windows(self)
        self._check_trained(layer, allow_untrained)
        if exit is not None:
            self._exits(exit, layer, allow_untrained)
        with refused_texts(inputs):
            features = super().preprocess(inputs, prompt=prompt, **kwargs)
        return features if self.training else with_tokens(features, inputs)

    def forward(
        self,
        features: dict[str, Any],
        layer: int | None = None,
        exit: str | float | None = None,
        allow_untrained: bool = False,
        **kwargs: Any,  # what the host adds for the model itself
    ) -> dict[str, Any]:
        """Run to ``layer`` (default: full depth), or to where ``exit`` lets each text leave. See the class."""
        features = dict(features)
        if "layers" in features:
            return self._forward_layers(features, features.pop("layers"), **kwargs)
        if exit is not None:
            return self._forward_exits(features, *self._exits(exit, layer, allow_untrained), allow_untrained, **kwargs)
        layer = self._check_trained(layer, allow_untrained)
        runner = self if layer == self.depth else shallow_copy(self, model=view(self.model, layer))
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

    def _forward_exits(
        self,
        features: dict[str, Any],
        policy: ExitPolicy,
        layers: tuple[int, ...],
        allow_untrained: bool,
        **kwargs: Any,  # what the host adds for the model itself
    ) -> dict[str, Any]:
        if self.training:
            raise ExitError("exit needs a model in evaluation mode, this one is training. Call model.eval().")
        if policy.weights is not None and policy.weights != weights_digest(self.model):
            raise ExitError(
                f"exit={policy.name!r} must run on the weights it was calibrated for, and in their precision, but "
                "these are others. Calibrate it again: st_plugins.exits.calibrate_exits(model, texts, ...)."
            )
        run = ExitRun(self.model, policy, layers)
        features = Transformer.forward(shallow_copy(self, model=run), features, **kwargs)
        features["exit_layer"] = run.exit_layer
        dims = set.intersection(*(set(self._trained_dims(layer)) for layer in layers))
        features["trained_dims"] = None if allow_untrained else tuple(sorted(dims))
        return features

    def _exits(self, exit: str | float, layer: int | None, allow_untrained: bool) -> tuple[ExitPolicy, tuple[int, ...]]:
        """The policy of a call, and the layers its texts leave at."""
        policy = self.exit_policy(exit, allow_untrained=allow_untrained)
        last = min(policy.layers[-1], self._check_trained(layer, allow_untrained))
        layers = (*(k for k in policy.layers if k < last), last)
        untrained = set(layers) - set(self.trained_layers())
        if untrained:
            self._check_trained(min(untrained), allow_untrained)
        return policy, layers

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
