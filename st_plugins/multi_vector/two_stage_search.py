"""MUVERA's search: one vector for each text finds candidates, MaxSim ranks them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from st_plugins.errors import SizeError
from st_plugins.modules import FixedDimensionalEncoder
from st_plugins.multi_vector.ball_carving import carve_balls
from st_plugins.multi_vector.token_rows import maxsim_scores, ranked, token_arrays
from st_plugins.multi_vector.vector_index import ExactIndex, VectorIndex, checked_empty


class MultiVectorSearch:
    """Searches documents of many vectors through an index of single ones, and ranks what it finds by exact MaxSim.

    Scores are exact; what may be missed is a document that is not among the candidates. With as many candidates as
    documents the result is that of a full search. Token embeddings stay in memory, in float16 if they come so. Searches
    may run at the same time, but not while documents are added.

    Args:
        encoder: Makes one vector of many.
        index: By dot product, with faiss's ``add`` and ``search``; None takes
            :class:`~st_plugins.multi_vector.ExactIndex`. It must be empty: its rows are the documents.

    Raises:
        ShapeError: If embeddings have another width than the encoder's.
        InputError: If a text has no tokens, or numbers that are not finite.
        IndexMismatchError: If the index is not empty.

    References:
        MUVERA, https://arxiv.org/abs/2405.19504, section 3.2.

    Example:
        >>> documents = [torch.eye(4)[:2], torch.eye(4)[2:]]  # as MultiVectorEncoder.encode_document returns them
        >>> search = MultiVectorSearch(FixedDimensionalEncoder(4))
        >>> search.add(documents)
        >>> search.search([torch.eye(4)[3:]], k=1)
        [[{'corpus_id': 1, 'score': 1.0}]]
    """

    def __init__(self, encoder: FixedDimensionalEncoder, *, index: VectorIndex | None = None) -> None:
        self.encoder = encoder
        self.index = ExactIndex(encoder.get_embedding_dimension()) if index is None else checked_empty(index)
        self._documents: list[np.ndarray] = []

    def __len__(self) -> int:
        return len(self._documents)

    def add(self, documents: Sequence[Any]) -> None:
        """Take in documents, one tensor or array (T_i, D) each; their ids count on from the last."""
        arrays = token_arrays(documents, self.encoder.embedding_dimension)
        if arrays:
            self.index.add(_vectors(self.encoder.encode_document, arrays))
            self._documents += arrays

    def search(
        self, queries: Sequence[Any], k: int = 10, *, candidates: int = 200, carving_threshold: float | None = None
    ) -> list[list[dict[str, Any]]]:
        """The best documents of each query.

        Args:
            queries: One tensor or array (T_i, D) each, as ``MultiVectorEncoder.encode_query`` returns them.
            k: Documents per query.
            candidates: How many the index finds for MaxSim to rank, at least k.
            carving_threshold: Rank by the sums of :func:`~st_plugins.multi_vector.carve_balls`: less work, scores at
                most the exact ones. None ranks exactly.

        Returns:
            list: For each query its documents, best first, as ``util.semantic_search`` gives them: ``corpus_id`` and
            ``score``, the MaxSim.

        Raises:
            SizeError: If ``candidates`` is below k.
        """
        if not 1 <= k <= candidates:
            raise SizeError(
                f"MaxSim can rank candidates only: it needs 1 <= k <= candidates, got {k} and {candidates}."
            )
        arrays = token_arrays(queries, self.encoder.embedding_dimension)
        if not arrays or not self._documents:
            return [[] for _ in arrays]
        _, found = self.index.search(_vectors(self.encoder.encode_query, arrays), min(candidates, len(self._documents)))
        results = []
        for query, rows in zip(arrays, found, strict=True):
            rows = rows[rows >= 0]  # where an approximate index has found fewer
            tokens = query.astype(np.float32, copy=False)
            tokens = tokens if carving_threshold is None else carve_balls(tokens, carving_threshold)
            results.append(ranked(rows, maxsim_scores(tokens, [self._documents[row] for row in rows]), k))
        return results


def _vectors(encode: Any, arrays: list[np.ndarray]) -> np.ndarray:
    return encode([torch.from_numpy(array).float() for array in arrays]).cpu().numpy()
