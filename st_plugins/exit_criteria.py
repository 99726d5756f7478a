"""Criteria: a score for each text at each exit, higher where leaving is safer. The threshold is the policy's.

A criterion sees the mean token embedding of a text at the exits so far, and its length: nothing of the other texts, and
nothing that is not computed anyway.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from st_plugins.errors import ExitError

# What a gate looks at: cosines to the exit before, of that to the one before it, and to the first; log length; one.
GATE_FEATURES = 5


@dataclass(frozen=True)
class Saturation:
    """How little a text's mean token embedding still moves from exit to exit.

    With p_j the mean at the j-th exit, and patience r::

        score_j = min( cos(p_j, p_(j-1)), ..., cos(p_(j-r+1), p_(j-r)) )          -inf for j <= r

    so that it reaches a threshold where r cosines in a row have reached it. It needs no training, and can leave at the
    (r + 1)-th exit at the earliest.

    Args:
        patience: r, at least 1.

    Raises:
        ExitError: If patience is not a positive integer.

    References:
        Cosines of consecutive states: CALM, https://arxiv.org/abs/2207.07061, section 3.3, and LEAP,
        https://arxiv.org/abs/2605.01058. Patience: PABEE, https://arxiv.org/abs/2006.04152.

    Example:
        >>> pooled = torch.tensor([[[1.0, 0.0]], [[1.0, 0.0]], [[0.0, 1.0]]])  # one text at three exits
        >>> [Saturation().score(pooled[:exits], torch.tensor([5])).item() for exits in (1, 2, 3)]
        [-inf, 1.0, 0.0]
    """

    patience: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.patience, int) or isinstance(self.patience, bool) or self.patience < 1:
            raise ExitError(f"patience must be a positive integer, got {self.patience!r}.")

    def score(self, pooled: Tensor, lengths: Tensor) -> Tensor:
        """Score the rows at the last of the exits given.

        Args:
            pooled: (J, B, D), the means at the first J exits.
            lengths: (B,) tokens; not used.

        Returns:
            Tensor: (B,) in [-1, 1], or -inf.
        """
        if len(pooled) <= self.patience:
            return pooled.new_full((pooled.shape[1],), -math.inf)
        recent = pooled[-self.patience - 1 :]
        return _cosine(recent[1:], recent[:-1]).amin(dim=0)

    def check_exits(self, layers: tuple[int, ...]) -> None:
        """Raise :class:`~st_plugins.errors.ExitError` if no text could ever leave before the last of these layers."""
        if len(layers) < self.patience + 2:
            raise ExitError(
                f"{self!r} needs at least {self.patience + 2} exits to compare, got layers {list(layers)}. Train more "
                "layers, or use a gate: st_plugins.training.train_gates(model, texts)."
            )

    def as_dict(self) -> dict[str, Any]:
        """What is written to JSON."""
        return {"type": "saturation", "patience": self.patience}


@dataclass(frozen=True)
class Gate:
    """One linear head per exit that predicts how close the text is to its full embedding.

    With p_j the mean token embedding at the j-th exit, c_j = cos(p_j, p_(j-1)) or 0 where there is none, and T the
    number of tokens::

        score_j = clip( w_j . (c_j, c_(j-1), cos(p_j, p_1), log T, 1), -1, 1 )

    so a threshold reads as a predicted cosine. Unlike :class:`Saturation` it can leave at the first exit.
    :func:`st_plugins.training.train_gates` makes one.

    Args:
        layers: The exits it was trained for, the last one excepted.
        weights: w, five finite numbers for each of them.

    Raises:
        ExitError: If there are not five numbers per layer.

    Example:
        >>> gate = Gate((3,), ((0.0, 0.0, 0.0, 0.0, 0.5),))
        >>> gate.score(torch.ones(1, 2, 8), torch.tensor([4, 9]))
        tensor([0.5000, 0.5000])
    """

    layers: tuple[int, ...]
    weights: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        shapes = [len(head) for head in self.weights]
        if not self.layers or shapes != [GATE_FEATURES] * len(self.layers):
            raise ExitError(
                f"A gate must have {GATE_FEATURES} weights for each of its layers {list(self.layers)}, got {shapes}."
            )
        if not all(math.isfinite(weight) for head in self.weights for weight in head):
            raise ExitError("The weights of a gate must be finite numbers, got one that is not. Train it again.")

    def score(self, pooled: Tensor, lengths: Tensor) -> Tensor:
        """Score the rows at the last of the exits given.

        Args:
            pooled: (J, B, D), the means at the first J exits.
            lengths: (B,) tokens.

        Returns:
            Tensor: (B,) in [-1, 1].
        """
        head = torch.tensor(self.weights[len(pooled) - 1], device=pooled.device)
        # Not a matrix product: its order of summation may depend on the number of rows.
        return (gate_features(pooled, lengths) * head).sum(dim=-1).clamp(-1, 1)

    def check_exits(self, layers: tuple[int, ...]) -> None:
        """Raise :class:`~st_plugins.errors.ExitError` unless these layers are the ones it was trained for."""
        if layers[:-1] != self.layers:
            raise ExitError(
                f"The gate was trained for exits at layers {list(self.layers)}, got {list(layers[:-1])}. "
                "Train it again: st_plugins.training.train_gates(model, texts)."
            )

    def as_dict(self) -> dict[str, Any]:
        """What is written to JSON."""
        return {"type": "gate", "layers": list(self.layers), "weights": [list(head) for head in self.weights]}


Criterion = Saturation | Gate


def criterion_from_dict(content: Any) -> Criterion:
    """The criterion that ``as_dict`` described.

    Raises:
        ExitError: If it is not one.
    """
    try:
        if content["type"] == "saturation":
            return Saturation(content["patience"])
        if content["type"] == "gate":
            heads = tuple(tuple(float(weight) for weight in head) for head in content["weights"])
            return Gate(tuple(int(layer) for layer in content["layers"]), heads)
    except (KeyError, TypeError, ValueError) as error:
        raise ExitError(f"The criterion of a saved policy is damaged: {error}. Calibrate it again.") from None
    raise ExitError(
        f"The criterion of a saved policy must be 'saturation' or 'gate', got {content['type']!r}. "
        "A newer release of st-plugins may have written it."
    )


def masked_mean(token_embeddings: Tensor, attention_mask: Tensor) -> Tensor:
    """Mean of the token embeddings of each text, in single precision at least.

    Args:
        token_embeddings: (B, T, D).
        attention_mask: (B, T) 0/1.

    Returns:
        Tensor: (B, D); zeros for a row without tokens.

    Example:
        >>> masked_mean(torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([[1, 1, 0]]))
        tensor([[2.]])
    """
    states = token_embeddings.to(torch.promote_types(token_embeddings.dtype, torch.float32))
    mask = attention_mask.to(states.dtype)[..., None]  # (B, T, 1)
    return (states * mask).sum(dim=1) / mask.sum(dim=1).clamp_min(1)


def gate_features(pooled: Tensor, lengths: Tensor) -> Tensor:
    """What a gate looks at, see :class:`Gate`.

    Args:
        pooled: (J, B, D).
        lengths: (B,).

    Returns:
        Tensor: (B, 5).
    """
    here = len(pooled) - 1
    nothing = pooled.new_zeros(pooled.shape[1])
    columns = [
        _cosine(pooled[here], pooled[here - 1]) if here >= 1 else nothing,
        _cosine(pooled[here - 1], pooled[here - 2]) if here >= 2 else nothing,
        _cosine(pooled[here], pooled[0]),
        lengths.to(pooled.dtype).clamp_min(1).log(),
        nothing + 1,
    ]
    return torch.stack(columns, dim=-1)


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    return F.cosine_similarity(a, b, dim=-1).clamp(-1, 1)
