"""What every loss over several layers stands on: one run of the encoder per column, gradients cached or not."""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from sentence_transformers.base.losses import CachedLossMixin, uses_gradient_cache
from torch import Tensor, nn

from st_plugins.blocks import check_layer
from st_plugins.errors import LossError, SizeError
from st_plugins.first_modules import elastic_transformer, unwrapped
from st_plugins.functional import by_layer
from st_plugins.width import check_dim, embedding_width

Size = tuple[int, int]
T = TypeVar("T")

# The menu of the Starbucks paper for 12 layers and 768 dims, as shares of both.
_MENU = ((2 / 12, 32 / 768), (4 / 12, 64 / 768), (6 / 12, 128 / 768), (8 / 12, 256 / 768), (10 / 12, 512 / 768))


def full_size(model: nn.Module) -> Size:
    """Depth and width (L, D) of an elastic model."""
    return elastic_transformer(model, "a loss over layers").depth, embedding_width(unwrapped(model).children())


def layer_loss(
    model: nn.Module,
    sentence_features: Iterable[dict[str, Any]],
    layers: tuple[int, ...],
    compute: Callable[[list[Tensor]], Tensor],
    mini_batch_size: int | None,
) -> Tensor:
    """Embed a batch at several layers and hand the embeddings to a formula.

    The encoder runs once per column. Its layers then go through the model's own later modules as one larger batch,
    inside the model's own ``forward``: wrappers for distributed training and compilation see an ordinary call.

    Args:
        model: An elastic model, wrapped or not.
        sentence_features: One dict per column, as the trainer's collator makes them; left as they are.
        layers: S layers to read, counted from 1.
        compute: Takes one tensor (B, S, D) per column and returns a scalar.
        mini_batch_size: Texts per mini-batch of gradient caching, or None to keep the whole graph.

    Returns:
        Tensor: The scalar, ready for ``backward``. With a mini-batch size the gradient is the same, the memory that of
        one mini-batch.

    References:
        GradCache, https://arxiv.org/abs/2101.06983; sentence-transformers' ``CachedLossMixin``.

    Example:
        >>> model = st_plugins.load("minilm-elastic")
        >>> columns = [model.preprocess(["a question"]), model.preprocess(["an answer"])]
        >>> layer_loss(model, columns, (3, 6), lambda c: (c[0] * c[1]).sum(), mini_batch_size=None).shape
        torch.Size([])
    """
    requests = [{**features, "layers": layers} for features in sentence_features]
    if mini_batch_size is not None:
        return _CachedStep(model, mini_batch_size, layers, compute).forward_cached(requests)
    return compute([by_layer(model(request)["sentence_embedding"], layers) for request in requests])


class _CachedStep(CachedLossMixin):
    """One step of gradient caching: what the host's machinery asks of a loss, with this step's layers and formula."""

    def __init__(
        self,
        model: nn.Module,
        mini_batch_size: int,
        layers: tuple[int, ...],
        compute: Callable[[list[Tensor]], Tensor],
    ) -> None:
        self.model = model
        self.mini_batch_size = mini_batch_size
        self.layers = layers
        self.compute = compute

    def calculate_loss(
        self, reps: list[list[Tensor]], labels: Tensor | None = None, *, with_backward: bool = False
    ) -> Tensor:
        loss = self.compute([torch.cat([by_layer(rep, self.layers) for rep in column]) for column in reps])
        if with_backward:
            loss.backward()
            loss = loss.detach()
        return loss


def task_loss(loss: nn.Module, embeddings: list[Tensor], labels: Tensor | None) -> Tensor:
    """The base loss of embeddings, one tensor (B, D) per column; the parts of a loss that returns a dict are added."""
    value: Any = loss.compute_loss_from_embeddings(embeddings, labels)
    return sum(value.values()) if isinstance(value, dict) else value


def precisely(compute: Callable[[list[Tensor]], T], columns: list[Tensor]) -> T:
    """A formula of embeddings in single precision at least, automatic mixed precision or not.

    Cosines over a temperature are no longer apart in half precision: there a cosine is off by 0.002, which a
    temperature of 0.05 makes 4 percent of a weight.

    Args:
        compute: Takes as many tensors.
        columns: One tensor (B, ...) per column, of any precision.

    Returns:
        What ``compute`` returns.

    Example:
        >>> precisely(lambda columns: columns[0].dtype, [torch.ones(1, dtype=torch.bfloat16)])
        torch.float32
    """
    dtype = torch.promote_types(columns[0].dtype, torch.float32)
    with torch.autocast(columns[0].device.type, enabled=False):
        return compute([column.to(dtype) for column in columns])


def check_base_loss(loss: nn.Module) -> None:
    """Raise :class:`~st_plugins.errors.LossError` unless the loss can be given embeddings."""
    if uses_gradient_cache(loss):
        raise LossError(
            f"The base loss must not cache gradients itself, got {type(loss).__name__}. "
            "Pass its plain form, and give this loss a mini_batch_size."
        )
    if not callable(getattr(loss, "compute_loss_from_embeddings", None)):
        raise LossError(
            f"The base loss must have compute_loss_from_embeddings, {type(loss).__name__} has not. "
            "MultipleNegativesRankingLoss, CoSENTLoss and most other losses of sentence-transformers do."
        )


def check_options(*, mini_batch_size: int | None, temperature: float = 1.0, **weights: float) -> None:
    """Raise :class:`~st_plugins.errors.LossError` naming the first option that is out of range."""
    check_weights(**weights)
    check_positive(temperature=temperature)
    if mini_batch_size is not None and mini_batch_size < 1:
        raise LossError(f"mini_batch_size must be a positive integer or None, got {mini_batch_size!r}.")


def check_weights(**weights: float) -> None:
    """Raise :class:`~st_plugins.errors.LossError` naming the first weight that is negative or not finite."""
    for name, weight in weights.items():
        if not 0 <= weight < float("inf"):
            raise LossError(f"{name} must be a number >= 0, got {weight!r}.")


def check_positive(**options: float) -> None:
    """Raise :class:`~st_plugins.errors.LossError` naming the first option that is not greater than zero."""
    for name, value in options.items():
        if not value > 0:
            raise LossError(f"{name} must be > 0, got {value!r}.")


def check_sizes(sizes: Iterable[Size], full: Size) -> tuple[Size, ...]:
    """The sizes smaller than the full one, sorted.

    Args:
        sizes: Pairs (layer, dim); the full one may be among them.
        full: Depth and width of the model.

    Returns:
        tuple: Without the full size.

    Raises:
        SizeError: If one is no pair, or does not exist.
        LossError: If there is none, or one comes twice.
    """
    depth, width = full
    pairs: list[Any] = [tuple(size) for size in sizes]
    if not pairs:
        raise LossError("sizes must name at least one (layer, dim), got none. Leave it out for the default.")
    for pair in pairs:
        if len(pair) != 2:
            raise SizeError(f"sizes must be pairs (layer, dim), got {pair!r}.")
        layer, dim = pair
        check_layer(layer, depth)
        check_dim(dim, width)
    if len(set(pairs)) != len(pairs):
        raise LossError(f"sizes must not repeat, got {pairs}.")
    return tuple(sorted(set(pairs) - {full}))


def starbucks_menu(depth: int, width: int) -> list[Size]:
    """The menu of the Starbucks paper, https://arxiv.org/abs/2410.13230, in proportion to a model; no full size.

    Args:
        depth: L.
        width: D.

    Returns:
        list: Pairs (layer, dim) with layers below L, sorted.

    Example:
        >>> starbucks_menu(12, 768)
        [(2, 32), (4, 64), (6, 128), (8, 256), (10, 512)]
    """
    sizes = {(max(1, round(layers * depth)), max(1, round(dims * width))) for layers, dims in _MENU}
    return sorted(size for size in sizes if size[0] < depth)
