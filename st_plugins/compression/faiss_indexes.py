"""Product quantization as an index of faiss: what searches the codes. Trains nothing."""

from importlib import import_module
from typing import Any

import numpy as np

from st_plugins.errors import InputError, MissingExtraError, ShapeError
from st_plugins.modules import ProductQuantization


def faiss_index(module: ProductQuantization, codes: Any = None) -> Any:
    """A faiss index with the rotation and centroids of a module, empty or of given codes; scores are its dot products.

    ``index.add(vectors)`` takes the embeddings in front of the module, at unit length, and keeps M log2(K) / 8 bytes of
    each; ``index.search(queries, k)`` takes queries in front of the module, too. Its score of a document is q . e of
    :class:`~st_plugins.modules.ProductQuantization` with a float query, up to rounding. faiss saves it
    (``faiss.write_index``); for millions of documents, put its quantizer under an inverted file there.

    Args:
        module: Fitted or trained.
        codes: (N, M) integers: documents whose codes are known, such as those that
            :class:`~st_plugins.losses.IndexRankingLoss` kept while it trained the centroids. None for no documents.

    Returns:
        faiss.IndexPreTransform: Over a ``faiss.IndexPQ``.

    Raises:
        MissingExtraError: If faiss is not installed.
        InputError: If the number of centroids is no power of two from 2 to 65,536.
        ShapeError: If the codes are no integers below the number of centroids, M a document.

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
    quantized = library.IndexPQ(width, module.parts, bits_of(module), library.METRIC_INNER_PRODUCT)
    library.copy_array_to_vector(_flat(module.codebooks), quantized.pq.centroids)
    quantized.is_trained = True
    if codes is not None:
        packed = library.pack_bitstrings(_checked_codes(codes, module), bits_of(module))
        library.copy_array_to_vector(packed.ravel(), quantized.codes)
        quantized.ntotal = len(packed)
    index = library.IndexPreTransform(rotation, quantized)
    rotation.this.disown()
    quantized.this.disown()
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


def _checked_codes(codes: Any, module: ProductQuantization) -> np.ndarray:
    found = np.asarray(codes.cpu() if hasattr(codes, "cpu") else codes)
    is_right = found.ndim == 2 and found.shape[1] == module.parts and np.issubdtype(found.dtype, np.integer)
    if not is_right or (found.size and not 0 <= found.min() <= found.max() < module.centroids):
        raise ShapeError(
            f"codes must be integers from 0 to {module.centroids - 1} of shape (N, {module.parts}), got {found.dtype} "
            f"of shape {found.shape}. Take module.codes(...) of rounded vectors."
        )
    return found.astype(np.int32)


def _flat(tensor: Any) -> np.ndarray:
    return tensor.detach().float().cpu().numpy().ravel()
