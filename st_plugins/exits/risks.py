"""Losses of leaving early, one number in [0, 1] per text. Any function of the same form serves as well."""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from st_plugins.counts import is_count
from st_plugins.errors import ExitError, ShapeError
from st_plugins.finite_vectors import check_finite

Risk = Callable[[Tensor, Tensor], Tensor]

_ROWS_AT_ONCE = 256


def cosine_loss(exits: Tensor, full: Tensor) -> Tensor:
    """How far each vector is from its full one: 1 - cos, and 1 beyond a right angle.

    Args:
        exits: (N, D) embeddings as they leave.
        full: (N, D) embeddings of the full depth.

    Returns:
        Tensor: (N,) in [0, 1].

    Example:
        >>> cosine_loss(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[2.0, 0.0], [0.0, -1.0]]))
        tensor([0., 1.])
    """
    return (1 - F.cosine_similarity(exits, full, dim=-1)).clamp(0, 1)


class OverlapRisk:
    """Share of a text's k nearest documents that leaving early would miss: 1 - overlap@k.

    With N_k(e) the k documents of highest cosine with e, the earlier one where two are equal::

        loss = 1 - |N_k(e_exit) and N_k(e_full)| / k          in [0, 1]

    Documents keep their full depth, so this is the loss of queries that leave early.

    Args:
        corpus: (M, D) embeddings of the documents, usually ``model.encode_document(documents)``.
        k: In [1, M].

    Raises:
        ExitError: If k is out of range.
        ShapeError: If the corpus is no matrix, or is called with embeddings of another width.
        NonFiniteError: If a document holds NaN or infinity: it would be among the nearest of every text, and the risk
            would seem lower than it is.

    Example:
        >>> risk = OverlapRisk(torch.eye(3), k=2)
        >>> risk(torch.tensor([[0.9, 0.5, 0.1]]), torch.tensor([[0.9, 0.1, 0.5]]))
        tensor([0.5000])
    """

    def __init__(self, corpus: Tensor | np.ndarray, k: int = 10) -> None:
        documents = torch.as_tensor(corpus).detach().float().cpu()
        if documents.ndim != 2:
            raise ShapeError(f"The corpus must be embeddings (M, D), got shape {tuple(documents.shape)}.")
        if not is_count(k) or k > len(documents):
            raise ExitError(f"k must be an integer from 1 to {len(documents)}, the size of the corpus, got {k!r}.")
        check_finite({"sentence_embedding": documents})
        self.documents = F.normalize(documents, dim=-1)
        self.k = k
        self.__name__ = f"overlap@{k}"

    def __call__(self, exits: Tensor, full: Tensor) -> Tensor:
        """(N,) losses of embeddings (N, D), see the class."""
        if exits.shape[-1] != self.documents.shape[-1]:
            raise ShapeError(
                f"The corpus has width {self.documents.shape[-1]}, the texts {exits.shape[-1]}. Embed both with the "
                "same model and truncate_dim."
            )
        missed = [
            1 - (self._nearest(a)[:, :, None] == self._nearest(b)[:, None, :]).any(dim=2).float().mean(dim=1)
            for a, b in zip(exits.split(_ROWS_AT_ONCE), full.split(_ROWS_AT_ONCE), strict=True)
        ]
        return torch.cat(missed)

    def _nearest(self, embeddings: Tensor) -> Tensor:
        scores = F.normalize(embeddings, dim=-1) @ self.documents.T  # (B, M)
        return scores.argsort(dim=-1, descending=True, stable=True)[:, : self.k]


def risk_of(risk: str | Risk) -> tuple[str, Risk]:
    """Name and function of a risk as :func:`~st_plugins.exits.calibrate_exits` takes it.

    Raises:
        ExitError: If it is neither "cosine" nor a function.
    """
    if isinstance(risk, str):
        if risk != "cosine":
            raise ExitError(
                "risk must be 'cosine' or a function of embeddings (exits, full) like OverlapRisk(corpus), got "
                f"{risk!r}."
            )
        return "cosine", cosine_loss
    if not callable(risk):
        raise ExitError(f"risk must be 'cosine' or a function of embeddings (exits, full), got {risk!r}.")
    return getattr(risk, "__name__", type(risk).__name__), risk


def losses_at_exits(name: str, risk: Risk, embeddings: Tensor) -> Tensor:
    """The loss of each text at each exit.

    Args:
        name: Of the risk.
        risk: Called once per exit; row i of its result may depend on row i of its first argument only.
        embeddings: (S, N, D); the last ones are the full ones.

    Returns:
        Tensor: (S, N) in double precision.

    Raises:
        ShapeError: If the risk returns another shape than (N,).
        ExitError: If it returns something outside [0, 1].
    """
    full = embeddings[-1]
    losses = []
    for exits in embeddings:
        loss = torch.as_tensor(risk(exits, full)).double()
        if loss.shape != full.shape[:1]:
            raise ShapeError(f"{name} must return one loss per text, {tuple(full.shape[:1])}, got {tuple(loss.shape)}.")
        if not bool(((loss >= 0) & (loss <= 1)).all()):
            raise ExitError(
                f"{name} must return losses from 0 to 1, got {float(loss.min())} to {float(loss.max())}. "
                "The guarantee holds for bounded losses only; scale or clip them."
            )
        losses.append(loss)
    return torch.stack(losses)
