"""Vectors for classes that shall not move: corners of a simplex, or means of texts. They learn nothing."""

import torch
import torch.nn.functional as F
from torch import Tensor

from st_plugins.errors import LossError
from st_plugins.losses.batch_checks import check_classes


def simplex_vertices(classes: int, dim: int) -> Tensor:
    """Unit vectors that are as far from one another as so many can be: the vertices of a regular simplex.

    With K classes, row i and coordinate k = 1 ... K - 1 of a cosine transform::

        w_ik = sqrt(2 / (K - 1)) * cos(pi * (2 i + 1) * k / (2 K))           and 0 from k = K on

    ``w_i . w_j = -1 / (K - 1)`` for all i != j, and their sum is 0. The published ones stand on the axes; these are
    turned, so that no coordinate belongs to one class and all are told apart by the first coordinates alone.

    Args:
        classes: K, from 2 to ``dim + 1``. Vertices without texts keep a place for classes to come.
        dim: D, of the embeddings.

    Returns:
        Tensor: (K, D), double precision.

    Raises:
        LossError: If there is no such simplex in D dimensions.

    References:
        Pernici et al., *Regular Polytope Networks*, https://arxiv.org/abs/2103.15632: the d-Simplex classifier.

    Example:
        >>> simplex_vertices(3, 2) @ simplex_vertices(3, 2).T
        tensor([[ 1.0000, -0.5000, -0.5000],
                [-0.5000,  1.0000, -0.5000],
                [-0.5000, -0.5000,  1.0000]], dtype=torch.float64)
    """
    if not 2 <= classes <= dim + 1:
        raise LossError(
            f"classes must be from 2 to {dim + 1}, as a simplex in {dim} dimensions has no more vertices, got "
            f"{classes}. Take embeddings of the classes' names instead, or a wider model."
        )
    rows = torch.arange(classes, dtype=torch.float64)[:, None]
    waves = torch.arange(1, classes, dtype=torch.float64)
    vertices = torch.cos(torch.pi * (2 * rows + 1) * waves / (2 * classes)) * (2 / (classes - 1)) ** 0.5  # (K, K - 1)
    return F.pad(vertices, (0, dim - classes + 1))


def class_means(embeddings: Tensor, labels: Tensor, classes: int) -> Tensor:
    """The mean embedding of each class.

    Args:
        embeddings: (B, D), as they are.
        labels: (B,), integers from 0 to ``classes - 1``.
        classes: K.

    Returns:
        Tensor: (K, D) in the same dtype, summed in double precision; zeros for a class without texts.

    Raises:
        LossError: If the labels are no integers, not one per row, or not among the classes.

    References:
        The entry vectors of DefSent+, https://arxiv.org/abs/2405.16153: a word is the mean of its definitions.

    Example:
        >>> class_means(torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 5.0]]), torch.tensor([0, 0, 1]), 2)
        tensor([[2., 0.],
                [0., 5.]])
    """
    labels = check_classes("class_means", labels, len(embeddings), classes)
    exact = torch.float32 if embeddings.device.type == "mps" else torch.float64
    sums = embeddings.new_zeros(classes, embeddings.shape[1], dtype=exact).index_add_(0, labels, embeddings.to(exact))
    return (sums / torch.bincount(labels, minlength=classes).clamp(min=1)[:, None]).to(embeddings.dtype)
