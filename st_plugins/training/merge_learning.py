"""Lets a loss decide the weights of a merge: Self Positioning, and task arithmetic with learned weights."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.losses import uses_gradient_cache
from sentence_transformers.util import batch_to_device
from torch import Tensor, nn
from torch.func import functional_call

from st_plugins.errors import LossError
from st_plugins.losses.batch_checks import check_numbers
from st_plugins.modes import evaluating
from st_plugins.training.merging import Method, TaskVectors, check_mergeable, merge_shares

# The trainer takes columns of these names for labels.
_LABELS = ("label", "labels", "score", "scores")


@dataclass(frozen=True)
class MergeWeights:
    """What :func:`learn_merge` found, for :func:`merge_models`.

    Args:
        weights: One per model, > 0; only their ratios count.
        scale: How far from the base.
        losses: The loss of each batch, before its step.

    Example:
        >>> MergeWeights(weights=(1.0, 3.0), scale=0.9, losses=()).scale
        0.9
    """

    weights: tuple[float, ...]
    scale: float
    losses: tuple[float, ...]


def learn_merge(
    base: SentenceTransformer,
    models: Sequence[SentenceTransformer],
    dataset: Any,
    loss: nn.Module,
    *,
    method: Method = "slerp",
    batch_size: int = 32,
    epochs: int = 1,
    learning_rate: float = 0.05,
    penalty: float = 0.0,
    seed: int = 0,
) -> MergeWeights:
    """The weights and the scale of a merge at which a loss on texts of yours is lowest (Self Positioning).

    With W(w, scale) as in :func:`merge_models`, N + 1 numbers are trained, nothing else::

        minimize over log w and scale:   mean over batches of loss(W(w, scale)) + penalty scale

    by Adam from equal weights and scale 1. Dropout is off. The model in the loss is the merged one for the time of a
    call; no weight is changed. A few thousand texts, of all tasks that the result is for, are enough for so few
    numbers; the paper takes 32,000.

    Args:
        base: What the models were trained from.
        models: See :func:`merge_models`.
        dataset: A ``datasets.Dataset`` as the loss wants it: columns of texts, and ``label`` or ``score`` if it has
            labels. Texts are taken as they are, without prompts.
        loss: Any sentence-transformers loss built on ``base``, except cached ones: they come back to the weights when
            these are the base's again.
        method: See :func:`merge_models`.
        batch_size: Rows per step; an incomplete last batch is left out.
        epochs: Passes over the dataset.
        learning_rate: Of Adam.
        penalty: >= 0, on the scale; below 0.05 in the paper.
        seed: Of the order of the rows.

    Returns:
        MergeWeights: For ``merge_models(base, models, weights=found.weights, scale=found.scale, method=...)``.

    Raises:
        LossError: If there is no such method; if the loss is not built on the base, caches gradients, or becomes NaN;
            if an option is out of range, or there are fewer than two rows.
        UnsupportedModelError: As :func:`merge_models`.

    References:
        See :func:`merge_models`. Differs from the paper: Adam on log w, which keeps w positive.

    Example:
        >>> base = SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2")
        >>> trained = SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2")
        >>> with torch.no_grad():  # in place of a training
        ...     _ = [parameter.add_(0.01 * torch.randn_like(parameter)) for parameter in trained.parameters()]
        >>> found = learn_merge(base, [trained], pairs, MultipleNegativesRankingLoss(base), batch_size=2)
        >>> merged = st_plugins.training.merge_models(base, [trained], weights=found.weights, scale=found.scale)
    """
    check_mergeable(base, models, method)
    _check_learning(base, dataset, loss, batch_size, epochs, learning_rate, penalty)
    tasks = TaskVectors(base, models)
    gram = tasks.gram()
    losses = []
    # inference_mode of a caller would leave nothing to differentiate.
    with evaluating(loss), torch.inference_mode(False), torch.enable_grad():
        logs = torch.zeros(len(models), dtype=torch.float64, requires_grad=True)
        scale = torch.ones((), dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.Adam([logs, scale], lr=learning_rate)
        for features, labels in _batches(base, dataset, batch_size, epochs, seed):
            optimizer.zero_grad()
            shares = scale * merge_shares(gram, logs.exp(), method)
            value, slopes = loss_slopes(loss, tasks, shares.detach(), features, labels)
            ((shares * slopes).sum() + penalty * scale).backward()
            optimizer.step()
            losses.append(value)
    return MergeWeights(tuple(logs.exp().tolist()), float(scale.detach()), tuple(losses))


def loss_slopes(
    loss: nn.Module, tasks: TaskVectors, shares: Tensor, features: list[dict[str, Any]], labels: Tensor | None
) -> tuple[float, Tensor]:
    """A loss at the merged weights, and its derivative by each share: gradient . V_i.

    Args:
        loss: Built on the base of ``tasks``.
        tasks: Of the models.
        shares: k, (N,).
        features: One dict per column.
        labels: As the loss wants them.

    Returns:
        tuple: The value, and (N,) in double precision.

    Raises:
        LossError: If the value is NaN.
    """
    merged = {name: tensor.requires_grad_() for name, tensor in tasks.merged(shares)}
    value: Any = functional_call(loss, _placed(loss, tasks, merged), (features, labels), tie_weights=False)
    value = sum(value.values()) if isinstance(value, dict) else value
    check_numbers("The loss", [value])
    gradients = torch.autograd.grad(value, list(merged.values()), allow_unused=True)
    return float(value.detach()), tasks.along(dict(zip(merged, gradients, strict=True)))


def _placed(loss: nn.Module, tasks: TaskVectors, merged: dict[str, Tensor]) -> dict[str, Tensor]:
    """The merged tensors under the names that a loss has for those of the base, one name per place.

    Losses around losses hold the model twice. torch ties such names by itself, but then a module that it meets under
    two of them keeps the new tensors when the call is over.
    """
    by_id = {id(tensor): merged[name] for name, tensor in tasks.base.items()}
    return {
        f"{path}.{name}".lstrip("."): by_id[id(tensor)]
        for path, module in loss.named_modules()  # each module once
        for own in (module.named_parameters, module.named_buffers)
        for name, tensor in own(recurse=False, remove_duplicate=False)
        if id(tensor) in by_id
    }


def _batches(
    model: SentenceTransformer, dataset: Any, batch_size: int, epochs: int, seed: int
) -> Iterator[tuple[list[dict[str, Any]], Tensor | None]]:
    """Features of each column of texts, and the labels."""
    generator = torch.Generator().manual_seed(seed)
    rows = min(batch_size, len(dataset))
    for _ in range(epochs):
        order = torch.randperm(len(dataset), generator=generator).tolist()
        for start in range(0, len(dataset) - rows + 1, rows):
            batch = dataset[order[start : start + rows]]
            labels = [torch.tensor(batch[name], device=model.device) for name in batch if name in _LABELS]
            texts = [batch[name] for name in batch if name not in _LABELS]
            features: list[Any] = [batch_to_device(model.preprocess(column), model.device) for column in texts]
            yield features, labels[0] if labels else None


def _check_learning(
    base: SentenceTransformer,
    dataset: Any,
    loss: nn.Module,
    batch_size: int,
    epochs: int,
    learning_rate: float,
    penalty: float,
) -> None:
    if not {*map(id, base.parameters())} <= {*map(id, loss.parameters())}:
        raise LossError("The loss must be built on the base, this one has other weights. Make it anew: Loss(base).")
    if any(uses_gradient_cache(module) for module in loss.modules()):
        raise LossError(
            f"The loss must not cache gradients, got {type(loss).__name__}: it runs the model again when the merged "
            "weights are gone. Pass its plain form and a smaller batch_size."
        )
    if len(dataset) < 2 or batch_size < 2 or epochs < 1:
        raise LossError(
            f"There must be at least two rows, two per batch and one epoch, got {len(dataset)}, {batch_size} and "
            f"{epochs}."
        )
    if not (0 < learning_rate < float("inf") and 0 <= penalty < float("inf")):
        raise LossError(f"learning_rate must be > 0 and penalty >= 0, got {learning_rate!r} and {penalty!r}.")
