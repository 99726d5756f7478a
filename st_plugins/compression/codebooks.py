"""Fits rotation and centroids of product quantization to embeddings, by faiss. Trains no network."""

from typing import Any

import numpy as np
import torch

from st_plugins.compression.faiss_indexes import bits_of, faiss
from st_plugins.errors import InputError, ShapeError
from st_plugins.modules import ProductQuantization

_ITERATIONS = 25


def fit_codebooks(module: ProductQuantization, vectors: Any, *, seed: int = 0) -> None:
    """Make a module round these embeddings, and others like them, with little error: OPQ. In place.

    In turns: centroids by k-means in every part of the rotated vectors; the rotation that best puts the vectors where
    their centroids are (Procrustes)::

        minimise over R, c of sum_n || R f_n - e_n ||^2           R orthogonal, f_n at unit length

    Args:
        module: Its ``rotate`` and ``codebooks`` are replaced.
        vectors: (N, D) embeddings of documents like those of the index; of any length. At least as many as centroids,
            better 40 times as many.
        seed: Of k-means.

    Raises:
        MissingExtraError: If faiss is not installed.
        ShapeError: If the vectors are no matrix, or not D wide.
        InputError: If there are fewer than centroids, some are not finite, or the centroids are no power of two.

    References:
        Ge et al., *Optimized Product Quantization*, https://doi.org/10.1109/TPAMI.2013.240.

    Example:
        >>> module = ProductQuantization(8, parts=2, centroids=4)
        >>> vectors = torch.randn(200, 8, generator=torch.Generator().manual_seed(0))
        >>> before = module.eval()({"sentence_embedding": vectors})["quantization_error"].mean()
        >>> fit_codebooks(module, vectors)
        >>> bool(module({"sentence_embedding": vectors})["quantization_error"].mean() < before)
        True
    """
    rows = np.ascontiguousarray(vectors, dtype=np.float32)
    width = module.embedding_dimension
    if rows.ndim != 2 or rows.shape[1] != width:
        raise ShapeError(f"vectors must be of shape (N, {width}), got {rows.shape}. Embed texts without this module.")
    if len(rows) < module.centroids:
        raise InputError(
            f"It takes at least as many vectors as centroids, {module.centroids}, got {len(rows)}. Give more vectors, "
            "or build the module with fewer centroids."
        )
    if not np.isfinite(rows).all():
        raise InputError("vectors must be finite, and some hold NaN or infinity. Leave those out.")
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = rows / np.maximum(norms, 1e-12)
    library = faiss()
    quantizer = library.ProductQuantizer(width, module.parts, bits_of(module))
    _quiet(quantizer.cp, seed)
    rotation = library.OPQMatrix(width, module.parts, width)
    rotation.pq = quantizer  # what it fits in turns, so that K may be other than 256
    rotation.niter = _ITERATIONS
    rotation.train(rows)
    quantizer.train(rotation.apply(rows))
    size = (module.parts, module.centroids, width // module.parts)
    centroids = library.vector_to_array(quantizer.centroids).reshape(size)
    matrix = library.vector_to_array(rotation.A).reshape(width, width)
    with torch.no_grad():
        module.rotate.weight.copy_(torch.from_numpy(matrix))
        module.codebooks.copy_(torch.from_numpy(centroids))


def _quiet(settings: Any, seed: int) -> None:
    settings.seed = seed
    settings.niter = _ITERATIONS
    settings.min_points_per_centroid = 1
    settings.max_points_per_centroid = 1 << 16
