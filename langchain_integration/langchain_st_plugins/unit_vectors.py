"""Makes unit vectors of whatever an encoder returned; nothing else in this package normalizes or judges them."""

from typing import Any

import numpy as np

from st_plugins.errors import InputError, NonFiniteError, ShapeError, SizeError


def unit_vectors(vectors: Any, *, dim: int | None = None) -> np.ndarray:
    """The first ``dim`` coordinates of every row, L2-normalized after the cut.

    Args:
        vectors: Array (n, width) of any float type.
        dim: Coordinates to keep, or None for all.

    Returns:
        np.ndarray: (n, dim) float32, a new array.

    Raises:
        ShapeError: If ``vectors`` does not have two axes.
        SizeError: If there are fewer than ``dim`` coordinates.
        NonFiniteError: If a row holds NaN or infinity.
        InputError: If one has no direction because it is zero.

    Example:
        >>> unit_vectors([[3.0, 4.0, 12.0]], dim=2)
        array([[0.6, 0.8]], dtype=float32)
    """
    rows = np.asarray(vectors, dtype=np.float32)
    if rows.ndim != 2:
        raise ShapeError(f"Embeddings must be rows, shape (texts, width), got {rows.shape}. One text is one row.")
    width = rows.shape[1]
    if dim is not None and dim > width:
        raise SizeError(f"dim must be from 1 to {width}, the width of the embeddings, got {dim}.")
    rows = rows[:, :dim]  # (n, dim)
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
        raise NonFiniteError(
            f"Embeddings must be finite, but the one at position {int(np.argmin(finite))} holds NaN or infinity. "
            "Look at that text; half precision overflows on some models, so try the encoder in float32."
        )
    # In float64: squares of float32 overflow from 1e19 on, and vanish below 1e-22.
    norms = np.sqrt(np.einsum("nd,nd->n", rows, rows, dtype=np.float64))[:, np.newaxis]  # (n, 1)
    if not norms.all():
        raise InputError(
            f"Embeddings must not be zero, but the one at position {int(np.argmin(norms))} is, at dim={rows.shape[1]}. "
            "Such a text cannot be compared with others: leave it out, or use a larger dim."
        )
    return np.divide(rows, norms, out=np.empty_like(rows), casting="same_kind")
