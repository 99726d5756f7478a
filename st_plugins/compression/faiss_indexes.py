"""Product quantization as an index of faiss: what searches the codes. Trains nothing."""

from importlib import import_module
from typing import Any

import numpy as np

from st_plugins.errors import InputError, MissingExtraError
from st_plugins.modules import ProductQuantization


def faiss_index(module: ProductQuantization) -> Any:
    """An empty faiss index with the rotation and centroids of a module; scores are its dot products.

    ``index.add(vectors)`` takes the embeddings in front of the module, at unit length, and keeps M log2(K) / 8 bytes of
    each; ``index.search(queries, k)`` takes queries in front of the module, too. Its score of a document is q . e of
    :class:`~st_plugins.modules.ProductQuantization` with a float query, up to rounding. faiss saves it
    (``faiss.write_index``); for millions of documents, put its quantizer under an inverted file there.

    Args:
        module: Fitted or trained.

    Returns:
        faiss.IndexPreTransform: Over a ``faiss.IndexPQ``.

    Raises:
        MissingExtraError: If faiss is not installed.
        InputError: If the number of centroids is no power of two from 2 to 65,536.

    Example:
        >>> index = faiss_index(ProductQuantization(8, parts=2, centroids=16))
        >>> index.add(np.eye(8, dtype=np.float32))
        >>> index.ntotal, index.sa_code_size()
        (8, 1)
    """
    library, width = faiss(), module.embedding_dimension
    rotation = library.LinearTransform(width, width, False)
    library.copy_array_to_vector(_flat(module.rotate.weight), rotation.A)
    rotation.is_trained = rotation.is_orthonormal = True
    codes = library.IndexPQ(width, module.parts, bits_of(module), library.METRIC_INNER_PRODUCT)
    library.copy_array_to_vector(_flat(module.codebooks), codes.pq.centroids)
    codes.is_trained = True
    index = library.IndexPreTransform(rotation, codes)
    rotation.this.disown()
    codes.this.disown()
    index.own_fields = True
    return index


def faiss() -> Any:
    """The library.

    Raises:
        MissingExtraError: If it is not installed.

    Example:
        >>> faiss().METRIC_INNER_PRODUCT
        0
    """
    try:
        return import_module("faiss")
    except ModuleNotFoundError:
        raise MissingExtraError("faiss-cpu", "faiss") from None


def bits_of(module: ProductQuantization) -> int:
    """The bits of the code of one part.

    Raises:
        InputError: If the number of centroids is no power of two from 2 to 65,536.

    Example:
        >>> bits_of(ProductQuantization(8, parts=2, centroids=16))
        4
    """
    bits = module.centroids.bit_length() - 1
    if module.centroids != 1 << bits or not 1 <= bits <= 16:
        raise InputError(
            f"faiss needs a power of two of centroids, from 2 to 65,536, got {module.centroids}. Take 16 or 256."
        )
    return bits


def _flat(tensor: Any) -> np.ndarray:
    return tensor.detach().float().cpu().numpy().ravel()
