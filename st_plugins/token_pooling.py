"""Which tokens of a text a pooling may look at, and where they are. No pooling itself."""

from typing import Any

import torch
from torch import Tensor

from st_plugins.errors import ShapeError


def pooling_mask(features: dict[str, Any], *, include_prompt: bool) -> Tensor:
    """The tokens to pool: real ones, and without the prompt if so wanted.

    Works for left and right padding and for flattened inputs (``cu_seq_lens_q``). sentence-transformers says how long
    the prompt is, special tokens before it included, in ``prompt_length``: one number for all rows, or one for each.

    Args:
        features: With ``token_embeddings`` (B, T, D), or (1, all tokens, D) where flattened, and ``attention_mask``
            (B, T) if anything is padding.
        include_prompt: False leaves out the first ``prompt_length`` tokens of every text.

    Returns:
        Tensor: (B, T) bool, for :func:`padded_states`.

    Raises:
        ShapeError: If the attention mask is for other tokens.

    Example:
        >>> features = {"token_embeddings": torch.ones(1, 4, 2), "attention_mask": torch.tensor([[0, 1, 1, 1]])}
        >>> pooling_mask({**features, "prompt_length": 2}, include_prompt=False)
        tensor([[False, False, False,  True]])
    """
    tokens = features["token_embeddings"]
    if "cu_seq_lens_q" in features:
        starts, lengths = _segments(features["cu_seq_lens_q"])
        mask = torch.arange(int(lengths.max()), device=starts.device) < lengths[:, None]  # (B, T)
    elif "attention_mask" in features:
        mask = features["attention_mask"] != 0
        if mask.shape != tokens.shape[:2]:
            raise ShapeError(
                f"attention_mask must have one entry for each token, {tuple(tokens.shape[:2])}, got "
                f"{tuple(mask.shape)}. Pool right behind the module that wrote token_embeddings."
            )
    else:
        mask = torch.ones_like(tokens[..., 0], dtype=torch.bool)
    prompt_length = features.get("prompt_length")
    if include_prompt or prompt_length is None:
        return mask
    first = mask.to(torch.int32).argmax(dim=1, keepdim=True)  # (B, 1)
    lengths = torch.as_tensor(prompt_length, device=mask.device).reshape(-1, 1)
    # Where the host runs two columns as one batch it keeps the entries of the first; within a column they are equal.
    end = first + (lengths if len(lengths) == len(mask) else lengths[:1])
    return mask & (torch.arange(mask.shape[1], device=mask.device) >= end)


def padded_states(states: Tensor, features: dict[str, Any], mask: Tensor) -> Tensor:
    """Token states as one row for each text, flattened or not before, with zeros where a token is not pooled.

    Padding may hold anything, NaN included, which no product with zero removes.

    Args:
        states: (B, T, D), or (1, all tokens, D) where flattened.
        features: See :func:`pooling_mask`.
        mask: (B, T) bool, from there.

    Returns:
        Tensor: (B, T, D).

    Example:
        >>> flat = torch.tensor([[[1.0], [2.0], [3.0]]])
        >>> mask = torch.tensor([[True, False], [True, True]])
        >>> padded_states(flat, {"cu_seq_lens_q": torch.tensor([0, 1, 3])}, mask)[..., 0]
        tensor([[1., 0.],
                [2., 3.]])
    """
    if "cu_seq_lens_q" in features:
        starts, lengths = _segments(features["cu_seq_lens_q"])
        places = starts[:, None] + torch.arange(int(lengths.max()), device=starts.device)  # (B, T)
        states = states[0, places.clamp_max(states.shape[1] - 1)]
    return states.masked_fill(~mask[..., None], 0.0)


def _segments(boundaries: Tensor) -> tuple[Tensor, Tensor]:
    boundaries = boundaries.long()
    return boundaries[:-1], boundaries[1:] - boundaries[:-1]
