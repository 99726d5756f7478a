"""Fewer query vectors: tokens that are nearly alike become their sum."""

import numpy as np


def carve_balls(tokens: np.ndarray, threshold: float = 0.7) -> np.ndarray:
    """Group the tokens of a query greedily and put a sum in the place of each group.

    The first token that is left takes with it all others whose dot product with it reaches the threshold. MaxSim of the
    sums is at most that of the tokens, because a group must agree on one document token; what it saves is the work of
    the exact ranking. For queries only.

    Args:
        tokens: (T, D), unit vectors.
        threshold: Cosine in [-1, 1]; above every cosine of two tokens nothing changes.

    Returns:
        numpy.ndarray: (groups, D), groups <= T, in the order of their first tokens.

    References:
        MUVERA, https://arxiv.org/abs/2405.19504, section 3.2, which takes 0.7.

    Example:
        >>> carve_balls(np.array([[1.0, 0.0], [0.0, 1.0], [0.8, 0.6]])).tolist()
        [[1.8, 0.6], [0.0, 1.0]]
    """
    left = np.ones(len(tokens), bool)
    sums = []
    for first, token in enumerate(tokens):
        if not left[first]:
            continue
        group = left & (tokens @ token >= threshold)
        group[first] = True  # its own length may be a rounding error below the threshold
        sums.append(tokens[group].sum(axis=0))
        left &= ~group
    return np.stack(sums) if sums else tokens
