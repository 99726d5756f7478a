"""Any ranking loss between float queries and rounded documents, and how far rounding moves them."""

from collections.abc import Iterable
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.losses import uses_gradient_cache
from torch import Tensor, nn

from st_plugins.errors import LossError, UnsupportedModelError
from st_plugins.losses.batch_checks import check_numbers
from st_plugins.losses.citations import REPCONC
from st_plugins.losses.layers import check_base_loss, check_weights, precisely, task_loss
from st_plugins.modules import ProductQuantization


class QuantizationLoss(nn.Module):
    """Trains a model that ends in :class:`~st_plugins.modules.ProductQuantization`.

    With q the query of a row as it is (``task="query"``), d_hat its documents after rounding, d before it::

        loss = base(q, d_hat, ...) + weight * mean over documents of || d - d_hat ||^2

    The first term ranks as the index will; the second keeps centroids near what they stand for.

    Args:
        model: Ends in ``ProductQuantization``, fitted beforehand (:func:`st_plugins.compression.fit_codebooks`).
        loss: The base loss on embeddings, with dot products as its similarity. It must not cache gradients: balanced
            choices need the whole batch.
        weight: >= 0.

    Inputs:
        +---------------------------------------------+--------------------+
        | Columns                                     | Labels             |
        +=============================================+====================+
        | query, then documents as the base loss      | of the base loss   |
        +---------------------------------------------+--------------------+

    Requirements:
        Batches of at least as many documents as there are centroids, or "equally full" means nothing. Each process of a
        distributed run balances its own batch.

    Raises:
        UnsupportedModelError: If the model does not end in ``ProductQuantization``.
        LossError: If the base loss caches gradients or has no embedding interface, the weight is negative, or a batch
            has fewer than two columns or holds NaN.

    References:
        RepCONC, https://arxiv.org/abs/2110.05789, equation 2 with lambda = 1e-4.

    Example:
        >>> from sentence_transformers.util import dot_score
        >>> model = SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2")
        >>> model = SentenceTransformer(modules=[*model, ProductQuantization(384, parts=48)])
        >>> base = MultipleNegativesRankingLoss(model, scale=20.0, similarity_fct=dot_score)
        >>> trainer = SentenceTransformerTrainer(model=model, train_dataset=pairs, loss=QuantizationLoss(model, base))
    """

    citation = REPCONC

    def __init__(self, model: SentenceTransformer, loss: nn.Module, *, weight: float = 1e-4) -> None:
        super().__init__()
        if not isinstance(list(model)[-1], ProductQuantization):
            raise UnsupportedModelError(
                f"The model must end in ProductQuantization, got {type(list(model)[-1]).__name__}. Build it as "
                "SentenceTransformer(modules=[*model, ProductQuantization(...)])."
            )
        check_weights(weight=weight)
        if uses_gradient_cache(loss):
            raise LossError(
                f"The base loss must not cache gradients, got {type(loss).__name__}: balanced choices need the whole "
                "batch. Pass its plain form."
            )
        check_base_loss(loss)
        self.model = model
        self.loss = loss
        self.weight = weight

    def forward(self, sentence_features: Iterable[dict[str, Any]], labels: Tensor | None = None) -> dict[str, Tensor]:
        """``ranking`` and ``quantization``, which sentence-transformers adds up and logs."""
        columns = list(sentence_features)
        if len(columns) < 2:
            raise LossError(f"A batch must have a column of queries and one of documents, got {len(columns)} columns.")
        tasks = ["query", *["document"] * (len(columns) - 1)]
        outputs = [self.model(column, task=task) for column, task in zip(columns, tasks, strict=True)]
        embeddings = [output["sentence_embedding"] for output in outputs]
        check_numbers("Embeddings", embeddings)
        errors = torch.cat([output["quantization_error"] for output in outputs[1:]])
        ranking = precisely(lambda exact: task_loss(self.loss, exact, labels), embeddings)
        return {"ranking": ranking, "quantization": self.weight * errors.mean()}

    def get_config_dict(self) -> dict[str, Any]:
        """What the model card says about the loss."""
        return {"loss": type(self.loss).__name__, "weight": self.weight}
