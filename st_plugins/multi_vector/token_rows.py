"""Token vectors of many documents, one behind another, and exact MaxSim over them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from st_plugins.errors import InputError, ShapeError


def token_arrays(texts: Sequence[Any], width: int | None = None) -> list[np.ndarray]:
    """What ``MultiVectorEncoder.encode_query`` or ``encode_document`` returned, as arrays, checked.

    Args:
        texts: Tensors or arrays (T_i, D) of any device and dtype.
        width: D; None takes that of the first.

    Returns:
        list: Arrays, float32 or float16.

    Raises:
        ShapeError: If one is not (T_i, D).
        InputError: If one has no tokens, or NaN or infinity in them.

    Example:
        >>> [array.shape for array in token_arrays([torch.ones(3, 2), torch.ones(1, 2)])]
        [(3, 2), (1, 2)]
    """
    arrays = [_array(text) for text in texts]
    for row, array in enumerate(arrays):
        width = array.shape[-1] if width is None and array.ndim == 2 else width
        if array.ndim != 2 or array.shape[1] != width:
            raise ShapeError(
                f"Token embeddings must be one array of shape (tokens, {width or 'width'}) for each text, got "
                f"{array.shape} at row {row}. Pass a list, as MultiVectorEncoder.encode_document returns it."
            )
        if not len(array):
            raise InputError(f"The text at row {row} has no tokens. Leave it out.")
        if not np.isfinite(array).all():
            raise InputError(f"The tokens of the text at row {row} hold NaN or infinity. Embed it again.")
    return arrays


def maxsim_scores(query: np.ndarray, documents: Sequence[np.ndarray]) -> np.ndarray:
    """MaxSim of one query with each document, sum_q max_p q . p, in single precision.

    The same as ``sentence_transformers.util.maxsim``, for documents of any lengths without padding.

    Args:
        query: (T, D).
        documents: (T_i, D) each, at least one token.

    Returns:
        numpy.ndarray: (documents,).

    Example:
        >>> maxsim_scores(np.eye(2), [np.array([[0.5, 0.75], [1.0, 0.0]])]).tolist()
        [1.75]
    """
    if not len(documents):
        return np.zeros(0, np.float32)
    starts = np.cumsum([0, *(len(document) for document in documents[:-1])])
    similarities = query.astype(np.float32) @ np.concatenate(documents).astype(np.float32, copy=False).T
    return np.maximum.reduceat(similarities, starts, axis=1).sum(axis=0)


def ranked(rows: np.ndarray, scores: np.ndarray, k: int) -> list[dict[str, Any]]:
    """The k best in the host's form, that of ``util.semantic_search``; of equal scores the first row.

    Example:
        >>> ranked(np.array([4, 7]), np.array([0.5, 0.75]), 1)
        [{'corpus_id': 7, 'score': 0.75}]
    """
    order = np.lexsort((rows, -scores))[:k]
    return [{"corpus_id": int(rows[i]), "score": float(scores[i])} for i in order]


def _array(text: Any) -> np.ndarray:
    if isinstance(text, Tensor):
        text = text.detach().cpu()
        text = text.numpy() if str(text.dtype) in ("torch.float16", "torch.float32") else text.float().numpy()
    array = np.asarray(text)
    return array if array.dtype in (np.float16, np.float32) else array.astype(np.float32)
