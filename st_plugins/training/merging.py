"""Merges models that were trained apart from one base, in the space of what each has learned.

``SentenceTransformer.merge`` of sentence-transformers has more methods with fixed weights; what it lacks is a loss that
decides them, see :mod:`st_plugins.training.merge_learning`.
"""

import copy
import re
from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor

from st_plugins.errors import LossError, UnsupportedModelError
from st_plugins.model_settings import with_settings_of
from st_plugins.modules import ElasticTransformer
from st_plugins.weight_digests import UNUSED_WEIGHTS

Method = Literal["slerp", "arithmetic"]
METHODS = get_args(Method)
# Radians. Below, an arc is its chord to the last digit; that near to half a turn, no arc is the shortest.
_STRAIGHT, _OPPOSITE = 1e-4, 1e-3
# Behind the names of the module and of the network in it.
_UNUSED = re.compile(rf"[^.]+\.[^.]+\.{re.escape(UNUSED_WEIGHTS)}")


def merge_models(
    base: SentenceTransformer,
    models: Sequence[SentenceTransformer],
    *,
    weights: Sequence[float] | None = None,
    scale: float = 1.0,
    method: Method = "slerp",
) -> SentenceTransformer:
    """One model out of several that were fine-tuned from the same base.

    With B the weights of the base, V_i = W_i - B the task vector of model i, all its floating-point tensors as one
    vector, and w_i the share of model i::

        W = B + scale V
        "arithmetic":   V = sum_i w_i V_i / sum_i w_i
        "slerp":        V = V_(1..N)       along the arc: V_(1) = V_1, and with r = w_n / (w_1 + ... + w_n)
                        V_(1..n) = (sin((1 - r) a) V_(1..n-1) + sin(r a) V_n) / sin a,    a = angle of the two

    A larger w_i is nearer to model i. Along the arc the length is kept where averaging shortens it: two orthogonal
    task vectors of length 1 give one of length 1 and not 0.71. For more than two models, their order matters a little.

    Args:
        base: What the models were trained from.
        models: One or more, with the modules, tensors and vocabulary of the base.
        weights: w, all > 0; equal ones if None.
        scale: 0 gives the weights of the base, exactly; 1 and one model that model.
        method: See above.

    Returns:
        SentenceTransformer: A new one with the modules and settings of the first model; of elastic models, with the
        sizes that all were trained at. Integers and the unused pooler of Hugging Face are the first model's.

    Raises:
        LossError: If there is no such method, weights are not one positive number per model, or scale is not finite.
        UnsupportedModelError: If there is no model, one does not match the base, is the base, or two of them point in
            opposite directions, between which no arc is the shortest.

    References:
        Li et al., *Improving General Text Embedding Model: Tackling Task Conflict and Data Imbalance through Model
        Merging* (Self Positioning), https://arxiv.org/abs/2410.15035, whose code we did not find. As notes on it have
        the formula, a_i there is the share of the angle travelled away from model i, our weights of a pair exchanged,
        and a merged vector counts with the mean of its a. The merges that can be reached are the same; here equal
        weights of three models are equal, and for small angles both methods agree.

    Example:
        >>> base = SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2")
        >>> questions, codes = (SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2") for _ in range(2))
        >>> with torch.no_grad():  # in place of two trainings
        ...     for model in (questions, codes):
        ...         _ = [parameter.add_(0.01 * torch.randn_like(parameter)) for parameter in model.parameters()]
        >>> merged = merge_models(base, [questions, codes], weights=[2, 1])
    """
    check_mergeable(base, models, method)
    weights = [1.0] * len(models) if weights is None else [float(weight) for weight in weights]
    if len(weights) != len(models) or not all(0 < weight < float("inf") for weight in weights):
        raise LossError(f"weights must be one positive number for each of {len(models)} models, got {weights}.")
    if not abs(scale) < float("inf"):
        raise LossError(f"scale must be a finite number, got {scale!r}.")
    tasks = TaskVectors(base, models)
    shares = scale * merge_shares(tasks.gram(), torch.tensor(weights, dtype=torch.float64), method)
    result = with_settings_of(models[0], copy.deepcopy(dict(models[0].named_children())))
    state = result.state_dict(keep_vars=True)
    with torch.no_grad():
        for name, tensor in tasks.merged(shares):
            state[name].copy_(tensor)
    for module in result.modules():
        if isinstance(module, ElasticTransformer):
            others = [other[0].sizes for other in models if isinstance(other[0], ElasticTransformer)]
            module.sizes = [size for size in module.sizes if all(size in sizes for sizes in others)]
    return result


def merge_shares(gram: Tensor, weights: Tensor, method: Method) -> Tensor:
    """How much of each task vector the merged one has: V = sum_i k_i V_i, for both methods.

    Angles of sums follow from the products of the task vectors, so that nothing here is as large as a model.

    Args:
        gram: (N, N), V_i . V_j.
        weights: (N,), > 0.
        method: See :func:`merge_models`.

    Returns:
        Tensor: k, (N,), differentiable in the weights.

    Raises:
        UnsupportedModelError: If two vectors point in opposite directions, or one is zero.

    Example:
        >>> merge_shares(torch.eye(2), torch.tensor([1.0, 3.0]), "slerp")
        tensor([0.3827, 0.9239])
    """
    if method == "arithmetic":
        return weights / weights.sum()
    units = torch.eye(len(gram), dtype=weights.dtype)
    shares, total = units[0], weights[0]
    for index in range(1, len(gram)):
        total = total + weights[index]
        part = weights[index] / total
        length = (shares @ gram @ shares * gram[index, index]).sqrt()
        cosine = (shares @ gram[index] / length).clamp(-1, 1)
        angle = float(cosine.detach().acos())
        if not angle < torch.pi - _OPPOSITE:
            raise UnsupportedModelError(
                f"No arc can be drawn to task vector {index}: it is zero or points away from those before it, at an "
                f'angle of {angle:.4g}. Leave the model out, or take method="arithmetic".'
            )
        if angle < _STRAIGHT:
            shares = (1 - part) * shares + part * units[index]
        else:
            arc = cosine.acos()
            shares = (((1 - part) * arc).sin() * shares + (part * arc).sin() * units[index]) / arc.sin()
    return shares


class TaskVectors:
    """What each model learned, W_i - B: tensor by tensor and never kept, as both are there already.

    Args:
        base: The base.
        models: N of them.

    Attributes:
        base: Its floating-point tensors by name, shared ones once.

    Example:
        >>> base = SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2")
        >>> other = copy.deepcopy(base)
        >>> with torch.no_grad():
        ...     _ = next(other.parameters())[0].add_(2.0)  # 384 numbers
        >>> TaskVectors(base, [other]).gram().sqrt().round()
        tensor([[39.]], dtype=torch.float64)
    """

    def __init__(self, base: SentenceTransformer, models: Sequence[SentenceTransformer]) -> None:
        seen: set[int] = set()
        self.base: dict[str, Tensor] = {}
        for name, tensor in base.state_dict(keep_vars=True).items():
            # Shared ones count once.
            if tensor.is_floating_point() and id(tensor) not in seen and not _UNUSED.match(name):
                seen.add(id(tensor))
                self.base[name] = tensor
        self.states = [model.state_dict() for model in models]

    def _vectors(self, name: str) -> tuple[Tensor, Tensor]:
        """One tensor of the base, flat, and those of the task vectors (N, numbers); in single precision at least."""
        base = self.base[name].detach().flatten()
        base = base.to(torch.promote_types(base.dtype, torch.float32))
        return base, torch.stack([state[name].flatten().to(base) - base for state in self.states])

    @torch.no_grad()
    def gram(self) -> Tensor:
        """(N, N), in double precision; zero vectors are refused."""
        gram = torch.zeros(len(self.states), len(self.states), dtype=torch.float64)
        for name in self.base:
            vectors = self._vectors(name)[1].double()
            gram += (vectors @ vectors.T).cpu()
        equal = [index for index, square in enumerate(gram.diagonal().tolist()) if square == 0]
        if equal:
            raise UnsupportedModelError(
                f"Every model must differ from the base, those at {equal} have the same weights. Leave them out."
            )
        return gram

    @torch.no_grad()
    def merged(self, shares: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Names, and new tensors: base + sum_i shares_i V_i."""
        for name, tensor in self.base.items():
            base, vectors = self._vectors(name)
            yield name, (base + shares.to(base) @ vectors).to(tensor.dtype).view(tensor.shape)

    def along(self, gradients: dict[str, Tensor | None]) -> Tensor:
        """Gradient . V_i, (N,)."""
        total = torch.zeros(len(self.states), dtype=torch.float64)
        for name, gradient in gradients.items():
            if gradient is not None:
                total += (self._vectors(name)[1].double() @ gradient.flatten().double()).cpu()
        return total


def check_mergeable(base: SentenceTransformer, models: Sequence[SentenceTransformer], method: str) -> None:
    """Raise what :func:`merge_models` says about its arguments."""
    if method not in METHODS:
        raise LossError(f"method must be one of {', '.join(METHODS)}, got {method!r}.")
    if not models:
        raise UnsupportedModelError("There must be at least one model to merge, got none.")
    shapes = {name: tuple(tensor.shape) for name, tensor in base.state_dict().items()}
    for index, model in enumerate(models):
        found = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        wrong = sorted({name for name, _ in shapes.items() ^ found.items()})
        if wrong or _later_configs(model) != _later_configs(base) or _vocabulary(model) != _vocabulary(base):
            raise UnsupportedModelError(
                f"Every model must have the modules, tensors and vocabulary of the base, the one at {index} differs in "
                f"{wrong[:3] or 'the configuration of its modules or its vocabulary'}. Merge what was trained from "
                "this base, elastic all or none."
            )


def _later_configs(model: SentenceTransformer) -> list[Any]:
    """Of the modules behind the first, whose configuration the trainer may have added to."""
    return [(type(module).__name__, module.get_config_dict()) for module in list(model.children())[1:]]


def _vocabulary(model: SentenceTransformer) -> Any:
    return model.tokenizer.get_vocab()
