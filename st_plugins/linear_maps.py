"""Affine maps between embeddings of the same texts, in closed form, from sums that need one pass over the texts."""

import numpy as np
import torch
from torch import Tensor

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
# One text in five decides between them.
FOLDS = 5
# Of the sum of all squares: less spread than that is rounding.
_NO_SPREAD = 1e-10


class Moments:
    """Sums over texts of x, y, x x^T, x y^T and y y^T, in double precision; of one map or of S at once.

    Args:
        count: Texts.
        x: (S, D) or (D,).
        y: (E,).
        xx: (S, D, D) or (D, D).
        xy: (S, D, E) or (D, E).
        yy: ().

    Example:
        >>> x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
        >>> weight, bias = Moments.of(x[:, None], x[:, :1] + 3).map(0).solve(1e-12)
        >>> weight.round(decimals=6).abs(), bias.round(decimals=6)
        (tensor([[1., 0.]], dtype=torch.float64), tensor([3.], dtype=torch.float64))
    """

    def __init__(self, count: float, x: Tensor, y: Tensor, xx: Tensor, xy: Tensor, yy: Tensor) -> None:
        self.parts = (count, x, y, xx, xy, yy)

    @classmethod
    def of(cls, x: Tensor, y: Tensor) -> "Moments":
        """Of x (B, S, D) and y (B, E)."""
        x, y = x.double(), y.double()
        xx = torch.einsum("bsi,bsj->sij", x, x)
        return cls(len(y), x.sum(0), y.sum(0), xx, torch.einsum("bsi,bj->sij", x, y), (y * y).sum())

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(*(a + b for a, b in zip(self.parts, other.parts, strict=True)))

    def map(self, index: int) -> "Moments":
        """Those of one map."""
        count, x, y, xx, xy, yy = self.parts
        return Moments(count, x[index], y, xx[index], xy[index], yy)

    def solve(self, ridge: float) -> tuple[Tensor, Tensor]:
        """W (E, D) and b (E,) that minimize ``sum ||W (x - m_x) - (y - m_y)||^2 + ridge * S / D * ||W||^2``.

        Here m_x and m_y are the means and S is ``sum ||x - m_x||^2``; ``b = m_y - W m_x``. Where S is 0, so is W.
        """
        count, x, y, xx, xy, _ = self.parts
        mean_x, mean_y = x / count, y / count
        gram = xx - count * torch.outer(mean_x, mean_x)
        if gram.trace() <= _NO_SPREAD * xx.trace():  # texts that are all alike
            return torch.zeros_like(xy.T), mean_y
        gram = gram + ridge * gram.trace() / len(gram) * torch.eye(len(gram), dtype=gram.dtype)
        weight = torch.linalg.solve(gram, xy - count * torch.outer(mean_x, mean_y)).T
        return weight, mean_y - weight @ mean_x

    def rotate(self) -> Tensor:
        """W (E, D) with orthonormal rows or columns, whichever are fewer, that minimizes ``sum ||W x - y||^2``.

        With ``U S V^T`` the singular value decomposition of ``sum y x^T`` it is ``U V^T``: orthogonal Procrustes.
        """
        left, _, right = torch.linalg.svd(self.parts[4].T, full_matrices=False)
        return left @ right

    def error(self, weight: Tensor, bias: Tensor) -> float:
        """Sum over texts of || W x + b - y ||^2."""
        count, x, y, xx, xy, yy = self.parts
        quadratic = torch.einsum("ij,jk,ik->", weight, xx, weight) - 2 * (weight.T * xy).sum() + yy
        return float(quadratic + count * bias @ bias + 2 * bias @ (weight @ x) - 2 * bias @ y)


def ridge_map(held_out: Moments, rest: Moments) -> tuple[Tensor, Tensor]:
    """The ridge solution of all texts, with the strength that is best on the texts held out.

    Args:
        held_out: Of the texts that decide between :data:`RIDGES`.
        rest: Of the others.

    Returns:
        tuple: W (E, D) and b (E,), in double precision.

    Example:
        >>> x = torch.eye(3, dtype=torch.float64).repeat(4, 1)
        >>> both = [Moments.of(x[:, None], 2 * x).map(0) for _ in range(2)]
        >>> weight, bias = ridge_map(*both)
        >>> bool(torch.allclose(x @ weight.T + bias, 2 * x, atol=1e-3))
        True
    """
    best = min(RIDGES, key=lambda ridge: held_out.error(*rest.solve(ridge)))
    return (rest + held_out).solve(best)


def held_out_rows(count: int) -> Tensor:
    """Which of so many texts are held out: (count,) bool, one in five, the same ones every time.

    Example:
        >>> held_out_rows(10).sum()
        tensor(2)
    """
    return torch.from_numpy(np.random.default_rng(0).permutation(count) % FOLDS == 0)
