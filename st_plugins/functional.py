"""The mathematics: pure functions of tensors. Imports torch and nothing else.

Legend: B batch, N candidates, D width of an embedding, S sizes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def truncate(embeddings: Tensor, dim: int) -> Tensor:
    """First ``dim`` coordinates, L2-normalised after the cut.

    ``truncate(truncate(x, a), b) == truncate(x, b)`` for b <= a. A zero vector stays zero.

    Args:
        embeddings: (..., D).
        dim: Coordinates to keep, in [1, D].

    Returns:
        Tensor: (..., dim), unit length.

    Example:
        >>> truncate(torch.tensor([[3.0, 4.0, 12.0]]), 2)
        tensor([[0.6000, 0.8000]])
    """
    return F.normalize(embeddings[..., :dim], p=2, dim=-1)


def by_layer(stacked: Tensor, layers: tuple[int, ...]) -> Tensor:
    """Undo the stacking of an elastic model that was asked for several layers.

    Args:
        stacked: (S * B, ...), layer by layer, as every feature of ``model({**features, "layers": layers})``.
        layers: The S layers.

    Returns:
        Tensor: (B, S, ...).

    Example:
        >>> by_layer(torch.tensor([1, 2, 10, 20]), (3, 6))
        tensor([[ 1, 10],
                [ 2, 20]])
    """
    return stacked.unflatten(0, (len(layers), -1)).transpose(0, 1)


def distribution_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """How far the distributions of a student are from those of a teacher, as a mean KL divergence.

    With rows s of the student and t of the teacher, usually the scores of one query for N candidates::

        P = softmax(t / temperature)          (B, N), no gradient
        Q = softmax(s / temperature)          (B, N)
        loss = mean_b sum_n P_bn (log P_bn - log Q_bn)          >= 0; 0 when the rows differ by a constant

    On scores it compares rankings and not coordinates: rotating all embeddings of one side together changes nothing.
    2DMSE and ESE use it on the coordinates themselves.

    Args:
        student: (B, N), any numbers.
        teacher: (B, N); detached here.
        temperature: Divides both; > 0.

    Returns:
        Tensor: Scalar >= 0.

    References:
        Hinton et al., *Distilling the Knowledge in a Neural Network*, https://arxiv.org/abs/1503.02531;
        over passage scores as in Starbucks, https://arxiv.org/abs/2410.13230, section 3.1.

    Example:
        >>> distribution_loss(torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, 2.0]]), 1.0)
        tensor(0.)
    """
    target = F.log_softmax(teacher.detach() / temperature, dim=-1)  # (B, N)
    return F.kl_div(F.log_softmax(student / temperature, dim=-1), target, log_target=True, reduction="batchmean")


def compression_target(embeddings: Tensor, dim: int) -> Tensor:
    """Where ESE wants the first ``dim`` coordinates of a batch to be.

    Not a principal component analysis: with M the uncentred batch, one text per row::

        A = softmax over each row of (M^T M / sqrt(D))        (D, D)
        A = U diag(s) V^T                                     singular values, largest first
        P = M U[:, :dim] diag(s[:dim])                        (B, dim), no gradient

    Singular vectors have no sign of their own. Here the entry of largest magnitude of every column of U is positive, so
    that the same batch always has the same target.

    Args:
        embeddings: M, (B, D), as they are.
        dim: In [1, D].

    Returns:
        Tensor: (B, dim), detached.

    References:
        ESE, https://arxiv.org/abs/2402.14776v2, section 3.2. Its code decomposes by random projection; this is exact.

    Example:
        >>> compression_target(torch.randn(4, 8), 3).shape
        torch.Size([4, 3])
    """
    batch = embeddings.detach()
    # Half precision has no decomposition, and would round most of these small numbers away.
    rows = batch.to(torch.promote_types(batch.dtype, torch.float32))
    attention = torch.softmax(rows.T @ rows / rows.shape[1] ** 0.5, dim=-1)  # (D, D)
    left, singular_values, _ = torch.linalg.svd(attention)
    left = left[:, :dim]
    largest = left.gather(0, left.abs().argmax(dim=0, keepdim=True))  # (1, dim)
    left = left * torch.where(largest < 0, -1, 1)
    return (rows @ (left * singular_values[:dim])).to(batch.dtype)


def balanced_assignment(distances: Tensor, *, epsilon: float = 0.003, iterations: int = 100) -> Tensor:
    """Soft assignments of rows to columns, every column about equally full: entropic optimal transport.

    With C the distances less their mean, over the largest of their absolute values, in double precision::

        Q_0 = exp(-C / epsilon);  then ``iterations`` times: every column to sum 1 / K, every row to sum 1 / B
        Q   = B Q_last                                              rows sum to 1, columns to about B / K

    The smaller ``epsilon``, the nearer is Q to a choice of one column per row, and the more iterations columns need to
    come even. The sums are taken of logarithms, as exp(-1 / 0.003) is no number in single precision.

    Args:
        distances: (..., B, K) of any scale; each matrix by itself.
        epsilon: > 0.
        iterations: Of the alternation (Sinkhorn), >= 1.

    Returns:
        Tensor: (..., B, K) in double precision. ``argmax`` over K is the choice.

    Example:
        >>> balanced_assignment(torch.tensor([[0.0, 1.0], [0.1, 1.0]])).argmax(dim=1)
        tensor([0, 1])
    """
    both = (-2, -1)
    centered = distances.double() - distances.double().mean(dim=both, keepdim=True)
    largest = centered.abs().amax(dim=both, keepdim=True).clamp_min(torch.finfo(torch.double).tiny)
    scores = -centered / largest / epsilon  # (..., B, K), logarithms
    for _ in range(iterations):
        scores = scores - scores.logsumexp(dim=-2, keepdim=True)
        scores = scores - scores.logsumexp(dim=-1, keepdim=True)
    return scores.exp()
