"""Who is compared with whom in a batch of pairs: each anchor with the texts of all other columns."""

import torch
import torch.nn.functional as F
from torch import Tensor

from st_plugins.errors import LossError


def candidate_cosines(columns: list[Tensor]) -> Tensor:
    """Cosines of the anchors with all candidates of a batch; candidate i is the positive of anchor i.

    Args:
        columns: One tensor (B, D) per column: anchors, positives, then any number of columns of negatives.

    Returns:
        Tensor: (B, N), N being the number of texts in all columns but the first.

    Raises:
        LossError: If there are fewer than two columns, or they do not have as many rows.

    Example:
        >>> candidate_cosines([torch.eye(2), torch.tensor([[3.0, 4.0], [0.0, 1.0]])])
        tensor([[0.6000, 0.0000],
                [0.8000, 1.0000]])
    """
    shapes = [tuple(column.shape) for column in columns]
    if len(shapes) < 2 or len(set(shapes)) > 1:
        raise LossError(
            "The batch must have the columns (anchor, positive, ...), as many rows and coordinates in each, got "
            f"embeddings of shapes {shapes}. Choose the columns with dataset.select_columns."
        )
    return F.normalize(columns[0], dim=-1) @ F.normalize(torch.cat(columns[1:]), dim=-1).T
