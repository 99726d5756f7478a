"""How well the tokens of a text, together, name its words (the bag-of-words objective of DupMAE)."""

import torch.nn.functional as F
from torch import Tensor


def bag_of_words_loss(logits: Tensor, ids: Tensor) -> Tensor:
    """Cross entropy of one text's words under the largest logit that any of its tokens gives to each word.

    With n tokens, l_t the logits of token t over the vocabulary and U the set of ids in the text::

        p    = softmax over v of max_t l_tv
        loss = - sum over v in U of log(p_v) / n

    A word that comes twice counts once, so that the weights add up to |U| / n. The order of tokens does not matter.

    Args:
        logits: (n, V), of ordinary tokens alone: no padding, no special ones.
        ids: (n,), the words that stand there, hidden ones too.

    Returns:
        Tensor: A scalar >= 0.

    References:
        Xiao et al., *RetroMAE-2: Duplex Masked Auto-Encoder*, https://arxiv.org/abs/2305.02564 (DupMAE); the
        weights are those of its code.

    Example:
        >>> import torch
        >>> bag_of_words_loss(torch.zeros(4, 10), torch.tensor([5, 5, 7, 9]))  # 3 / 4 log 10
        tensor(1.7269)
    """
    # The position of the maximum is all that is kept for the gradient, not (n, V) numbers.
    best = F.log_softmax(logits.max(dim=0).values, dim=-1)  # (V,)
    return -best[ids.unique()].sum() / len(ids)
