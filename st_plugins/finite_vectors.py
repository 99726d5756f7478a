"""Refuses sentence embeddings that hold NaN or infinity, by row of the batch."""

from typing import Any

import torch
from torch import Tensor

from st_plugins.errors import NonFiniteError

_ROWS_NAMED = 5
# Before torch 2.7 one question stands for both.
_is_exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)


def check_finite(features: dict[str, Any]) -> None:
    """Do nothing if every sentence embedding is made of finite numbers.

    In float16 a vector of zeros is refused too: that is what ``normalize`` makes of one whose length overflows. Other
    zero vectors pass. Nothing is checked while a graph is traced or exported, where there are no numbers yet.

    Args:
        features: With ``sentence_embedding`` (B, D); ``attention_mask`` (B, T), if it is there, tells the tokens.

    Raises:
        NonFiniteError: With the rows, their tokens and the dtype.

    Example:
        >>> check_finite({"sentence_embedding": torch.tensor([[1.0], [torch.nan]])})
        Traceback (most recent call last):
        st_plugins.errors.NonFiniteError: Every vector must be finite, but this batch of 2 (float32) holds NaN, ...
    """
    if torch.jit.is_tracing() or _is_exporting():
        return
    embeddings = features["sentence_embedding"]
    is_good = torch.isfinite(embeddings).all(dim=-1)  # (B,)
    if embeddings.dtype == torch.float16:
        is_good &= (embeddings != 0).any(dim=-1)
    if not bool(is_good.all()):
        raise NonFiniteError(_message(embeddings, is_good, features.get("attention_mask")))


def _message(embeddings: Tensor, is_good: Tensor, mask: Any) -> str:
    rows = (~is_good).nonzero().flatten().tolist()
    named = [str(row) for row in rows[:_ROWS_NAMED]]
    if isinstance(mask, Tensor) and mask.ndim == 2 and len(mask) == len(embeddings):
        named = [f"{row} ({int(mask[row].sum())} tokens)" for row in rows[:_ROWS_NAMED]]
    more = f" and {len(rows) - _ROWS_NAMED} more" if len(rows) > _ROWS_NAMED else ""
    dtype = str(embeddings.dtype).removeprefix("torch.")
    if embeddings.dtype == torch.float16:
        advice = "Numbers overflow in float16 on some models: load it in bfloat16 or float32, model.float()."
    else:
        advice = "One bad number among the weights is enough: check them with torch.isfinite, and load the model again."
    return (
        f"Every vector must be finite, but this batch of {len(embeddings)} ({dtype}) holds NaN, infinity or an "
        f"overflow at row {', '.join(named)}{more}. {advice}"
    )
