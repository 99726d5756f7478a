"""Queries and centroids against the codes of an index, which stay: its own best documents are the negatives."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn

from st_plugins.counts import is_count
from st_plugins.errors import LossError, UnsupportedModelError
from st_plugins.losses.batch_checks import check_classes, check_numbers
from st_plugins.losses.citations import JPQ
from st_plugins.losses.layers import check_positive
from st_plugins.modules import ProductQuantization

# Documents scored at once for a batch of queries.
_DOCUMENTS = 65_536


class IndexRankingLoss(nn.Module):
    """Trains a model that ends in :class:`~st_plugins.modules.ProductQuantization` for an index that is there (JPQ).

    With q a query as it is (``task="query"``), k_(n,m) the codes of document n, which do not change, c the centroids,
    and s the scale::

        score(n) = sum over m of q_m . c_(m, k_(n,m))
        w(p, n)  = | 1 / r_p - 1 / r_n |                  r: the rank among the best T documents by score
        loss     = mean over p, n of w(p, n) log(1 + exp(s (score(n) - score(p))))

    p are the right documents of the query, n all others among the best T. Right ones that are not among them are ranked
    behind. The weight is how much the reciprocal rank changes if both change places, so that the loss looks where the
    list is read. Documents are searched anew for every batch, with the centroids of the moment, all of them on the
    device of the model.

    No document is encoded: an epoch costs the queries. What is trained are queries, and what the codes stand for. Then
    the index is made of the new centroids and the old codes, ``faiss_index(module, codes)``; the trained model is for
    queries. It would give documents other codes: **further documents take the model from before** and its centroids,
    and then their codes.

    Args:
        model: Ends in ``ProductQuantization`` with ``float_queries=True``.
        codes: (N, M) integers, those of the documents: ``model[-1].codes(model.encode_document(texts,
            convert_to_tensor=True))`` before the training, as rounded vectors are rounded to themselves.
        relevant: For each query of the dataset the positions of its right documents among the N.
        candidates: T, >= 1.
        cut: Ranks beyond it count as infinite: they have weight only against those before it. None for no such rank.
        scale: s, > 0, for vectors of unit length. The authors' have none, and s = 1.

    Inputs:
        +---------+-------------------------------------------------------------------------+
        | Columns | Label                                                                   |
        +=========+=========================================================================+
        | query   | the number of the query, an integer from 0: its place in ``relevant``   |
        +---------+-------------------------------------------------------------------------+

    Requirements:
        N M numbers of 8 bytes for the codes, and B N scores for 65,536 documents at a time. Learning rates of the paper
        are 5e-6 for the encoder; for centroids, in a group of their own, more.

    Relations:
        :class:`~st_plugins.losses.QuantizationLoss` (RepCONC) comes before: it trains documents, too, and their codes.

    Raises:
        UnsupportedModelError: If the model does not end in ``ProductQuantization`` with float queries.
        LossError: If codes or positions are not those of the model or of N documents, an option is out of range, or a
            batch has more than one column, other labels, or NaN.

    References:
        Zhan et al., *Jointly Optimizing Query Encoder and Product Quantization* (JPQ),
        https://arxiv.org/abs/2108.00644; the loss is that of its public code. In RepCONC's second stage the loss is
        cross-entropy, and right documents among the negatives are left in by its code; here they never are.

    Example:
        >>> from datasets import Dataset
        >>> model = SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2")
        >>> model = SentenceTransformer(modules=[*model, ProductQuantization(384, parts=48)])
        >>> documents = model.encode_document(["sorting a list", "making tea"], convert_to_tensor=True)
        >>> loss = IndexRankingLoss(model, model[-1].codes(documents), relevant=[{0}, {1}])
        >>> queries = Dataset.from_dict({"query": ["How do I sort?", "How long shall it draw?"], "label": [0, 1]})
        >>> trainer = SentenceTransformerTrainer(model=model, train_dataset=queries, loss=loss)
    """

    citation = JPQ
    codes: Tensor  # (N, M)

    def __init__(
        self,
        model: SentenceTransformer,
        codes: Tensor,
        relevant: Sequence[Collection[int]],
        *,
        candidates: int = 200,
        cut: int | None = None,
        scale: float = 20.0,
    ) -> None:
        super().__init__()
        last = list(model)[-1]
        if not isinstance(last, ProductQuantization) or not last.float_queries:
            raise UnsupportedModelError(
                f"The model must end in ProductQuantization with float_queries=True, got {last}. Build it as "
                "SentenceTransformer(modules=[*model, ProductQuantization(...)])."
            )
        check_positive(scale=scale)
        for name, value in (("candidates", candidates), ("cut", 1 if cut is None else cut)):
            if not is_count(value):
                raise LossError(f"{name} must be a positive integer, got {value!r}.")
        _check_codes(codes, last)
        self.model = model
        self.relevant = [sorted(set(positions)) for positions in relevant]
        _check_positions(self.relevant, len(codes))
        self.candidates = min(candidates, len(codes))
        self.cut = cut
        self.scale = scale
        # They are the index's: a checkpoint does not need them once more.
        self.register_buffer("codes", codes.detach().to(last.codebooks.device, torch.int64), persistent=False)

    @property
    def _quantization(self) -> Any:
        return list(self.model)[-1]

    def forward(self, sentence_features: Iterable[dict[str, Any]], labels: Tensor | None = None) -> Tensor:
        """The loss of a batch of queries."""
        columns = list(sentence_features)
        if len(columns) != 1:
            raise LossError(f"A batch must have one column, the queries, got {len(columns)}. Take out the others.")
        queries = self.model(columns[0], task="query")["sentence_embedding"]  # (B, D)
        numbers = check_classes("IndexRankingLoss", labels, len(queries), len(self.relevant))
        check_numbers("Embeddings", [queries])
        queries = queries.to(self._quantization.codebooks.dtype)
        found = self.search(queries)  # (B, T)
        losses = [self._of_query(*row) for row in zip(queries, found, numbers.tolist(), strict=True)]
        return torch.stack(losses).mean()

    @torch.no_grad()
    def search(self, queries: Tensor) -> Tensor:
        """The best documents of queries (B, D) with the centroids of the moment, best first: positions (B, T)."""
        best, rows = queries.new_zeros(len(queries), 0), self.codes.new_zeros(len(queries), 0)
        for start in range(0, len(self.codes), _DOCUMENTS):
            part = self._documents(self.codes[start : start + _DOCUMENTS])  # (n, D)
            positions = torch.arange(start, start + len(part), device=rows.device).expand(len(queries), -1)
            scores = torch.cat([best, queries @ part.T], dim=1)
            best, kept = scores.topk(min(self.candidates, scores.shape[1]), dim=1)
            rows = torch.cat([rows, positions], dim=1).gather(1, kept)
        return rows

    def _of_query(self, query: Tensor, found: Tensor, number: int) -> Tensor:
        right = torch.tensor(self.relevant[number], device=found.device)
        missed = right[~torch.isin(right, found)]
        listed = torch.cat([found, missed])  # (T + missed,)
        is_right = torch.isin(listed, right)
        scores = self._documents(self.codes[listed]) @ query
        ranks = torch.arange(1, len(listed) + 1, device=found.device)
        gains = 1.0 / ranks if self.cut is None else torch.where(ranks <= self.cut, 1.0 / ranks, 0.0)
        weights = (gains[is_right][:, None] - gains[~is_right]).abs()
        terms = weights * F.softplus(self.scale * (scores[~is_right] - scores[is_right][:, None]))
        return terms.mean() if terms.numel() else scores.sum() * 0  # every document is right: nothing to rank

    def _documents(self, codes: Tensor) -> Tensor:
        """What codes (n, M) stand for, (n, D)."""
        codebooks = self._quantization.codebooks
        return codebooks[torch.arange(len(codebooks), device=codes.device), codes].flatten(1)

    def get_config_dict(self) -> dict[str, Any]:
        """What the model card says about the loss."""
        return {"candidates": self.candidates, "cut": self.cut, "scale": self.scale}


def _check_codes(codes: Tensor, module: ProductQuantization) -> None:
    is_matrix = isinstance(codes, Tensor) and codes.ndim == 2 and codes.shape[1] == module.parts and len(codes) > 0
    if not is_matrix or codes.is_floating_point() or not ((codes >= 0) & (codes < module.centroids)).all():
        shape = f"{codes.dtype} of shape {tuple(codes.shape)}" if isinstance(codes, Tensor) else type(codes).__name__
        raise LossError(
            f"codes must be integers from 0 to {module.centroids - 1} of shape (documents, {module.parts}), got "
            f"{shape}. Take model[-1].codes(...) of what encode_document gives."
        )


def _check_positions(relevant: Sequence[Sequence[int]], documents: int) -> None:
    for number, positions in enumerate(relevant):
        if not positions or positions[0] < 0 or positions[-1] >= documents:
            raise LossError(
                f"Every query must have right documents, at positions from 0 to {documents - 1}, got "
                f"{list(positions)} for query {number}. Leave queries without one out."
            )
