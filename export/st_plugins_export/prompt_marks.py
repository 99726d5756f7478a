"""Prompts that pooling leaves out: attention sees their tokens, and the mask of a graph says which they are.

    attention_mask    0  padding    1  a token    2  a token of the prompt: attended to, not pooled

So a reader that sends 0 and 1, as all do that know nothing of this, gets a pooling over all tokens. Pure numpy.
"""

from collections.abc import Container, Sequence

import numpy as np


def count_prompt(ids: Sequence[int], special_ids: Container[int]) -> int:
    """The tokens at the start of a text that belong to its prompt, as sentence-transformers counts them.

    Args:
        ids: The prompt alone, special tokens included.
        special_ids: Of the tokenizer. Those in front of the prompt belong to it, one behind it does not.

    Example:
        >>> count_prompt([101, 7, 8, 102], {101, 102})
        3
    """
    return len(ids) - (len(ids) > 0 and ids[-1] in special_ids)


def marked(mask: np.ndarray, prompt_length: int) -> np.ndarray:
    """A mask with the prompt marked.

    Args:
        mask: (B, T) integers, 1 at tokens and 0 at padding, which may be on either side.
        prompt_length: Tokens of the prompt, at the start of every text.

    Returns:
        np.ndarray: (B, T), 2 at those.

    Example:
        >>> marked(np.array([[1, 1, 1], [0, 1, 1]]), 1).tolist()
        [[2, 1, 1], [0, 2, 1]]
    """
    return np.where(np.cumsum(mask, axis=1) <= prompt_length, 2 * mask, mask) if prompt_length else mask
