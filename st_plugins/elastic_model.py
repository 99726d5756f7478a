"""Makes a sentence-transformers model elastic, and freezes one of its sizes into a plain model again."""

import copy
from collections.abc import Iterable

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Transformer
from torch import nn

from st_plugins.blocks import check_layer
from st_plugins.errors import SizeError, UnsupportedModelError
from st_plugins.first_modules import elastic_transformer
from st_plugins.model_settings import free_name, with_settings_of
from st_plugins.modules import ElasticTransformer, LayerAlignment, Truncation
from st_plugins.modules.bidirectional_transformer import BidirectionalTransformer, loading_class
from st_plugins.views import check_views, independent_view
from st_plugins.width import check_dim, embedding_width


def elastic(model: SentenceTransformer, *, sizes: Iterable[tuple[int, int]] = ()) -> SentenceTransformer:
    """The same model, able to run to any layer and to be cut to any dim.

    At full size it gives the vectors it gave before. Smaller sizes become good only by training (see
    :class:`st_plugins.losses.ElasticLoss`), so until then they need ``allow_untrained=True``.

    Args:
        model: A model whose first module is a ``Transformer``. It is left as it is; the new one shares its weights.
        sizes: Sizes (layer, dim) it was already trained for elsewhere, as Matryoshka models were.

    Returns:
        SentenceTransformer: ``encode`` takes ``layer``, ``allow_untrained`` and, as always, ``truncate_dim``.

    Raises:
        UnsupportedModelError: If the first module is not a ``Transformer``, or its architecture cannot be cut exactly;
            that is tried on a few tokens.
        SizeError: If a size does not exist.

    Example:
        >>> model = st_plugins.elastic(SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2"))
        >>> model.encode(["A text"], layer=2, truncate_dim=64, allow_untrained=True).shape
        (1, 64)
    """
    first = model[0]
    if isinstance(first, ElasticTransformer):
        raise UnsupportedModelError(
            "The model must not be elastic yet, but its first module is an ElasticTransformer. Use it as it is; "
            "model[0].add_sizes(...) adds sizes it was trained for elsewhere."
        )
    if type(first) not in (Transformer, BidirectionalTransformer):
        raise UnsupportedModelError(
            f"The first module must be sentence-transformers' Transformer, got {type(first).__name__}. "
            "Only transformers have layers to exit from."
        )
    forward = first.__dict__.get("forward", first.forward)
    if getattr(forward, "__func__", None) is not Transformer.forward:
        raise UnsupportedModelError(
            f"The forward of the first module must be its class's own, got {forward!r} in its place. "
            "Save the model, load it again, and make that one elastic."
        )
    check_views(first.model, torch.tensor([[1, 2, 3, 2]], device=first.model.device))
    transformer = ElasticTransformer.from_transformer(first, sizes)
    modules = dict(model.named_children())
    width = embedding_width(modules.values())
    for layer, dim in transformer.sizes:
        if dim > width:
            raise SizeError(f"dim must be at most {width}, the embedding dimension, got size ({layer}, {dim}).")
    modules[next(iter(modules))] = transformer
    modules[free_name(modules)] = Truncation()
    return with_settings_of(model, modules)


def bake(model: SentenceTransformer, *, layer: int | None = None, dim: int | None = None) -> SentenceTransformer:
    """One size of an elastic model as a plain model, which loads anywhere without this package.

    The blocks above ``layer`` are gone. The cut to ``dim`` is a ``Dense`` whose weight is the first ``dim`` rows of the
    identity, followed by ``Normalize``: exact, and understood by everything that reads sentence-transformers folders.
    The map of a :class:`~st_plugins.modules.LayerAlignment` becomes a ``Dense`` and a ``Normalize``, too.

    Args:
        model: An elastic model; left as it is, nothing is shared.
        layer: In [1, L]; None for the full depth.
        dim: In [1, D]; None for the full width.

    Returns:
        SentenceTransformer: Made of sentence-transformers' own modules only, and of any module of ours the model has.
        Before transformers 5.2 that includes the first one of an un-masked decoder.

    Raises:
        UnsupportedModelError: If the model is not elastic.
        SizeError: If the size does not exist.

    Example:
        >>> model = st_plugins.load("minilm-elastic")
        >>> st_plugins.bake(model, layer=3, dim=128).save_pretrained("minilm-3x128")
        >>> SentenceTransformer("minilm-3x128").encode("A text").shape
        (128,)
    """
    first = elastic_transformer(model, "bake")
    layer = first.depth if layer is None else layer
    check_layer(layer, first.depth)
    modules = dict(model.named_children())
    name, tail = modules.popitem()
    if not isinstance(tail, Truncation):
        modules[name] = tail
    width = embedding_width(modules.values())
    dim = _kept_dim(dim, width, model.truncate_dim, tail)
    modules = {name: copy.deepcopy(module) for name, module in modules.items() if module is not first}
    modules = {next(iter(model.named_children()))[0]: _plain_transformer(first, layer), **_baked(modules, layer)}
    if dim < width:
        modules[free_name(modules)] = _first_coordinates(first, width, dim)
        modules[free_name(modules)] = Normalize()
    baked = with_settings_of(model, modules)
    baked.truncate_dim = None
    return baked


def _kept_dim(dim: int | None, width: int, truncate_dim: int | None, tail: nn.Module) -> int:
    widest = min(d for d in (width, truncate_dim, getattr(tail, "dim", None)) if d is not None)
    if dim is not None:
        check_dim(dim, widest)
    return widest if dim is None else dim


def _plain_transformer(elastic_transformer: ElasticTransformer, layer: int) -> Transformer:
    plain = object.__new__(loading_class(elastic_transformer.model))
    plain.__dict__.update(elastic_transformer.__dict__)
    for name in ("sizes", "exit_policies"):
        del plain.__dict__[name]
    network = independent_view(elastic_transformer.model, layer)
    others = {name: module for name, module in elastic_transformer._modules.items() if name != "model"}
    plain.__dict__["_modules"] = others
    plain = copy.deepcopy(plain)
    plain.model = network
    return plain


def _baked(modules: dict[str, nn.Module], layer: int) -> dict[str, nn.Module]:
    """The modules with the map of one layer in place of an alignment."""
    kept = {name for name, module in modules.items() if not isinstance(module, LayerAlignment)}
    baked: dict[str, nn.Module] = {}
    for name, module in modules.items():
        if isinstance(module, LayerAlignment):
            for part in _mapping(module, layer):
                baked[free_name({*kept, *baked})] = part
        else:
            baked[name] = module
    return baked


def _mapping(alignment: LayerAlignment, layer: int) -> list[nn.Module]:
    found = alignment.map_of(layer)
    if found is None:
        return []
    weight, bias = found
    return [Dense(*weight.shape, activation_function=nn.Identity(), init_weight=weight, init_bias=bias), Normalize()]


def _first_coordinates(first: ElasticTransformer, width: int, dim: int) -> Dense:
    parameter = next(first.parameters())
    rows = torch.eye(width, dtype=parameter.dtype, device=parameter.device)[:dim].clone()  # (dim, width)
    return Dense(width, dim, bias=False, activation_function=nn.Identity(), init_weight=rows)
