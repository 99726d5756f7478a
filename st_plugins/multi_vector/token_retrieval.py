"""XTR's search: documents are scored by the tokens that were retrieved, and by nothing else."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from st_plugins.errors import SizeError
from st_plugins.multi_vector.token_rows import ranked, token_arrays
from st_plugins.multi_vector.vector_index import ExactIndex, VectorIndex, checked_empty


class TokenRetrieval:
    """Searches an index of all document tokens, and fills in the similarities that it did not bring.

    For each of a query's n tokens q_i the index gives the k' most similar document tokens; m_i is the last of their
    similarities. A document takes part if it owns one of them, and no document's vectors are read::

        s_i(D) = max of q_i . p over the retrieved tokens p of D, or m_i if there is none
        f(D) = 1/n sum_i s_i(D)

    What was not retrieved is at most m_i, so f is at least MaxSim / n, and equal to it where k' covers all tokens. The
    smaller k', the more documents that were hardly retrieved gain. Models not trained for it (``XTRScores`` in
    sentence-transformers' losses) need a large k': scored like this, the paper's T5-ColBERT stays ten points of MRR@10
    below XTR. Only scores of one query can be compared.

    ``impute=False`` is the score of that training instead, over the retrieved tokens alone and divided by Z, the
    number of query tokens that retrieved any of D: the sum of s_i over those, by Z.

    Args:
        documents: One tensor or array (T_i, D) each, as ``MultiVectorEncoder.encode_document`` returns them. With the
            exact index all tokens are held in one float32 array.
        index: By dot product, with faiss's ``add`` and ``search``; None takes
            :class:`~st_plugins.multi_vector.ExactIndex`. It must be empty. If it is approximate, m_i is what it says.

    Raises:
        ShapeError: If embeddings have different widths.
        InputError: If a text has no tokens, or numbers that are not finite.
        IndexMismatchError: If the index is not empty.

    References:
        Lee et al., *Rethinking the Role of Token Retrieval in Multi-Vector Retrieval*,
        https://arxiv.org/abs/2304.01982, sections 3.1 and 3.2; k' is 40,000 there.

    Example:
        >>> documents = [torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0], [0.5, 0.75]])]
        >>> TokenRetrieval(documents).search([torch.tensor([[0.0, 1.0], [1.0, 0.0]])], k=1, k_prime=3)
        [[{'corpus_id': 1, 'score': 0.75}]]
    """

    def __init__(self, documents: Sequence[Any], *, index: VectorIndex | None = None) -> None:
        arrays = token_arrays(documents)
        self._owners = np.repeat(np.arange(len(arrays)), [len(array) for array in arrays])  # (tokens,)
        self._width = arrays[0].shape[1] if arrays else 0
        self.index = ExactIndex(self._width) if index is None else checked_empty(index)
        if arrays:
            self.index.add(np.concatenate(arrays).astype(np.float32, copy=False))

    def search(
        self, queries: Sequence[Any], k: int = 10, *, k_prime: int = 10_000, impute: bool = True
    ) -> list[list[dict[str, Any]]]:
        """The best documents of each query.

        Args:
            queries: One tensor or array (T_i, D) each, as ``MultiVectorEncoder.encode_query`` returns them.
            k: Documents per query; there are fewer where fewer were retrieved.
            k_prime: k', document tokens for each query token; all of them if there are no more.
            impute: See the class.

        Returns:
            list: For each query its documents, best first, as ``util.semantic_search`` gives them: ``corpus_id`` and
            ``score``, the f above.

        Raises:
            SizeError: If k or k' is below 1.
        """
        if k < 1 or k_prime < 1:
            raise SizeError(f"A search needs k and k_prime of at least 1, got {k} and {k_prime}.")
        if not len(self._owners):
            return [[] for _ in queries]
        results = []
        for query in token_arrays(queries, self._width):
            found = self.index.search(query.astype(np.float32, copy=False), min(k_prime, len(self._owners)))
            rows, best = self._best_of_documents(*found)  # (documents,), (T, documents)
            missing = np.isneginf(best)
            if impute:
                is_found = found[1] >= 0
                last = np.where(is_found, found[0], np.inf).min(axis=1, keepdims=True)  # m_i
                # Where an approximate index has found nothing, all documents are alike.
                last = np.where(is_found.any(axis=1, keepdims=True), last, 0)
                scores = np.where(missing, last, best).mean(axis=0)
            else:
                scores = np.where(missing, 0, best).sum(axis=0) / (~missing).sum(axis=0)
            results.append(ranked(rows, scores, k))
        return results

    def _best_of_documents(self, scores: np.ndarray, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The documents that own a retrieved token, and their best similarity for each query token, or -inf."""
        is_found = tokens >= 0
        owners = self._owners[tokens[is_found]]
        best = np.full((len(scores), self._owners[-1] + 1), -np.inf, np.float32)
        np.maximum.at(best, (np.nonzero(is_found)[0], owners), scores[is_found])
        rows = np.flatnonzero((best > -np.inf).any(axis=0))
        return rows, best[:, rows]
