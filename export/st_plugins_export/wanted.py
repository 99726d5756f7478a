"""What an export shall hold besides the full size, checked before any work: sizes, and exits."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding, WeightedLayerPooling

from st_plugins.blocks import check_layer, find_blocks
from st_plugins.errors import ExitError, ExportError, SizeError, UnsupportedModelError
from st_plugins.exit_policies import ExitPolicy
from st_plugins.exits.traces import exit_layers
from st_plugins.modules import ElasticTransformer, MultiLayerPooling
from st_plugins.weight_digests import weights_digest
from st_plugins_export.rounding import rounding_of


@dataclass(frozen=True)
class WantedExit:
    """A graph in which texts leave at layers of their own.

    Args:
        layers: Where, ascending.
        policy: Which texts leave where, or None for a graph that is told.
    """

    layers: tuple[int, ...]
    policy: ExitPolicy | None

    @property
    def name(self) -> str | None:
        """Of the policy."""
        return None if self.policy is None else self.policy.name


def wanted_sizes(model: SentenceTransformer, sizes: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Pairs (layer, dim), the full one first, each once. A ``StaticEmbedding`` has layer 0.

    Raises:
        ExportError: If there are some and the model is not elastic.
        SizeError: If one does not exist.
    """
    first = model[0]
    is_elastic = isinstance(first, ElasticTransformer)
    if sizes and not is_elastic:
        raise ExportError(
            f"Only elastic models have sizes other than the full one, got sizes={sizes} for a plain model. "
            "Wrap it first: export_onnx(st_plugins.elastic(model), ...)."
        )
    depth = 0 if isinstance(first, StaticEmbedding) else first.auto_model.config.num_hidden_layers
    depth = first.depth if is_elastic else depth
    width = model.get_embedding_dimension()
    for size in sizes:
        if not isinstance(size, (tuple, list)) or len(size) != 2:
            raise SizeError(f"sizes must be pairs (layer, dim), got {size!r}.")
        check_layer(size[0], depth)
        if not isinstance(size[1], int) or not 1 <= size[1] <= width:
            raise SizeError(f"dim must be an integer from 1 to {width} (the embedding dimension), got size {size}.")
        if size[0] < depth and any(isinstance(module, WeightedLayerPooling) for module in model.children()):
            raise SizeError(f"WeightedLayerPooling reads all {depth} layers, so none can be left out, got size {size}.")
        if size[1] < width and rounding_of(model) is not None:
            raise SizeError(
                f"{type(rounding_of(model)).__name__} rounds all {width} dims together, so none can be cut off, got "
                f"size {size}. Ask for the full width."
            )
    return list(dict.fromkeys([(depth, width), *((layer, dim) for layer, dim in sizes)]))


def wanted_exits(model: SentenceTransformer, names: Iterable[str], *, layer_per_text: bool) -> list[WantedExit]:
    """The graphs with exits, each once.

    Args:
        model: Elastic, if any are wanted.
        names: Policies of the model.
        layer_per_text: Whether one more graph is told where each text leaves: at any layer the model was trained for.

    Raises:
        ExportError: If the model is not elastic, or a name is none for a file.
        ExitError: If there is no such policy, or it was calibrated for other weights.
        UntrainedSizeError: If the model was not trained for a layer of a policy, or for none below the last.
        UnsupportedModelError: If the model cannot leave early in a graph.
    """
    if isinstance(names, str):
        raise ExitError(f"exits must be a list of names of policies, got {names!r}. Write exits=[{names!r}].")
    names = list(dict.fromkeys(names))
    if not names and not layer_per_text:
        return []
    first = model[0]
    if not isinstance(first, ElasticTransformer):
        raise ExportError(
            f"Only elastic models have exits, got exits={names}, layer_per_text={layer_per_text} for a plain model. "
            "Wrap it first: export_onnx(st_plugins.elastic(model, sizes=...), ...)."
        )
    if rounding_of(model) is not None:
        raise UnsupportedModelError(
            f"A graph in which texts leave early must not end in a rounding, got {type(rounding_of(model)).__name__}: "
            "it was not tried. Export fixed layers: export_onnx(model, folder, sizes=[(layer, dim)])."
        )
    _check_leaving(model)
    wanted = [_wanted_exit(first, name) for name in names]
    if layer_per_text:
        wanted.append(WantedExit(exit_layers(model), None))
    return wanted


def _wanted_exit(first: ElasticTransformer, name: str) -> WantedExit:
    if not isinstance(name, str):
        raise ExitError(
            f"exits must be names of policies of the model, {sorted(first.exit_policies)}, got {name!r}. A cosine "
            "becomes a policy with model[0].add_exit_policy(ExitPolicy(name, Saturation(), cosine, layers))."
        )
    policy = first.exit_policy(name)
    first.preprocess(["a"], exit=name)  # refuses layers that were not trained
    if policy.weights is not None and policy.weights != weights_digest(first.model):
        raise ExitError(
            f"The policy {name!r} must be exported with the weights it was calibrated for, and these are others. "
            "Calibrate it again: st_plugins.exits.calibrate_exits(model, texts, ...)."
        )
    if not re.fullmatch(r"[\w.-]+", name):
        raise ExportError(
            "The name of a policy becomes part of a file name, so it may have letters, digits, '.', '_' and '-', got "
            f"{name!r}. Add the policy under another one: dataclasses.replace(policy, name=...)."
        )
    return WantedExit(policy.layers, policy)


def _check_leaving(model: SentenceTransformer) -> None:
    network = model[0].model
    if find_blocks(network).is_shared:
        raise UnsupportedModelError(
            f"{type(network).__name__} applies one block many times, which cannot be cut into stages of a graph. "
            "Export fixed layers: export_onnx(model, folder, sizes=[(layer, dim)])."
        )
    for module in model.children():
        if isinstance(module, (MultiLayerPooling, WeightedLayerPooling)):
            raise UnsupportedModelError(
                f"{type(module).__name__} reads many layers, and a text that leaves early has only the one it left at. "
                "Use a pooling that reads one layer."
            )


def trained_dims(model: SentenceTransformer, layers: Iterable[int], dim: int) -> tuple[int, ...]:
    """Dims below ``dim`` that a model was trained for at every one of these layers; none for a plain model."""
    trained = getattr(model[0], "sizes", ())
    at_every = [{width for trained_layer, width in trained if trained_layer == layer} for layer in layers]
    return tuple(sorted(width for width in set.intersection(*at_every) if width < dim))
