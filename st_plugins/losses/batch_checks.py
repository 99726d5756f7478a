"""What can be said about a training only when its first batch is there. Options are checked earlier, in ``layers``."""

import torch
from torch import Tensor, nn

from st_plugins.errors import LossError
from st_plugins.losses.layers import task_loss


@torch.no_grad()
def check_first_batch(loss: nn.Module, embeddings: list[Tensor], labels: Tensor | None) -> None:
    """Raise :class:`~st_plugins.errors.LossError` if the base loss cannot learn from batches like this one.

    Args:
        loss: The base loss.
        embeddings: One tensor (B, D) per column, at full size.
        labels: What came with them.
    """
    rows = len(embeddings[0])
    if labels is not None and labels.ndim > 0 and len(labels) != rows:
        raise LossError(f"labels must have one entry per text, got {len(labels)} for {rows} texts.")
    if labels is not None and labels.is_floating_point() and not torch.isfinite(labels).all():
        raise LossError("labels must be finite numbers, got NaN or infinity. Look for empty cells in the dataset.")
    try:
        value = task_loss(loss, embeddings, labels)
    except torch.OutOfMemoryError:
        raise
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise LossError(
            f"{type(loss).__name__} must be able to use the columns and labels of the dataset, got {len(embeddings)} "
            f"text columns and {_described(labels)}; it says: {error} "
            "Give the columns and labels that its documentation asks for."
        ) from error
    check_comparison(type(loss).__name__, rows, value)


def check_comparison(name: str, rows: int, value: Tensor) -> None:
    """Raise :class:`~st_plugins.errors.LossError` if a batch of one row leaves a loss nothing to compare.

    Args:
        name: That of the loss, for the message.
        rows: How many the batch has.
        value: What the loss says about it.
    """
    if rows == 1 and value == 0:
        raise LossError(
            f"{name} must have more than one text per batch to compare with, got a batch of one. "
            "Set per_device_train_batch_size to 2 or more."
        )


def check_classes(name: str, labels: Tensor | None, rows: int, classes: int | None = None) -> Tensor:
    """Class labels as the losses over classes want them.

    Args:
        name: That of the loss, for the messages.
        labels: What came with the batch.
        rows: How many the batch has.
        classes: How many classes there are, if that is known.

    Returns:
        Tensor: (B,), integers.

    Raises:
        LossError: If they are no integers, not one per row, or not among the classes.
    """
    if labels is None or labels.is_floating_point() or labels.is_complex() or labels.shape != (rows,):
        raise LossError(
            f"{name} must have one integer per row, the class of its texts, for {rows} rows got {_described(labels)}. "
            "Add a column named label with the numbers of the classes."
        )
    # An index out of range would end the process on a GPU.
    if classes is not None and ((labels < 0) | (labels >= classes)).any():
        raise LossError(
            f"{name} must have labels from 0 to {classes - 1}, as it was given {classes} classes, got "
            f"{int(labels.min())} to {int(labels.max())}. Number the classes by the rows of what the loss was given."
        )
    return labels.long()


def check_numbers(what: str, values: list[Tensor]) -> None:
    """Raise :class:`~st_plugins.errors.LossError` if one of the values is NaN, before it spoils the weights.

    Args:
        what: Name of the values, for the message.
        values: Of any shapes. Infinity passes: mixed precision scales it away.
    """
    if torch.stack([torch.isnan(value).any() for value in values]).any():  # one wait for the device, not one each
        raise LossError(
            f"{what} must be numbers, got NaN. Look for NaN among the labels, lower the learning rate, or train in "
            "bf16 or fp32 instead of fp16."
        )


def _described(labels: Tensor | None) -> str:
    return "no labels" if labels is None else f"labels of {labels.dtype} and shape {tuple(labels.shape)}"
