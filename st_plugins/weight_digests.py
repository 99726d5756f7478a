"""A cheap identity of a network's weights, for asking in every call whether they are still those of a calibration.

It samples them. The identity of an embedding space, over everything and every number, is
:func:`st_plugins.fingerprint`.
"""

import hashlib
import weakref
from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

_NUMBERS_PER_WEIGHT = 256
# Hugging Face's own pooler: made up anew by every load of a folder that has no weights for it, and read by nobody, as
# sentence-transformers takes the token embeddings.
UNUSED_WEIGHTS = "pooler."

# Digests that were computed, with the weights and their versions. Entries go with their network. They hold the weights
# themselves, or new ones could lie where freed ones lay and be taken for them.
_known: weakref.WeakKeyDictionary[nn.Module, tuple[list[Tensor], list[int], str]] = weakref.WeakKeyDictionary()


def weights_digest(network: nn.Module) -> str:
    """SHA-256 over the names, shapes and types of all weights, and evenly spaced numbers of each, 256 at most.

    Training moves practically every number, so it notices training. It is no proof against a forger. The result is kept
    until a weight is replaced or changed in place, or an optimizer steps; changes through ``.data`` are not seen, as
    autograd does not see them either. Safe to call from several threads.

    Args:
        network: A Hugging Face model.

    Returns:
        str: 64 hexadecimal digits, the same on every machine and device, another for every type of number.

    Example:
        >>> network = torch.nn.Linear(4, 4)
        >>> before = weights_digest(network)
        >>> with torch.no_grad():
        ...     _ = network.weight.mul_(1.01)
        >>> weights_digest(network) == before
        False
    """
    weights = dict(_weights(network))
    tensors = list(weights.values())
    versions = [*_optimizer_steps(), *(_version(tensor) for tensor in tensors)]
    known = _known.get(network)
    if known is None or known[1] != versions or not _are_the_same(known[0], tensors):
        known = (tensors, versions, _digest(weights))
        _known[network] = known
    return known[2]


def _weights(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in network.named_parameters():
        if not name.startswith(UNUSED_WEIGHTS):
            yield name, tensor.detach()


def _are_the_same(some: list[Tensor], others: list[Tensor]) -> bool:
    return len(some) == len(others) and all(
        one.data_ptr() == other.data_ptr() for one, other in zip(some, others, strict=True)
    )


@cache
def _optimizer_steps() -> list[int]:
    """How often optimizers have stepped, from now on: fused ones change weights and leave their versions alone."""
    steps = [0]

    def count(*_: Any) -> None:
        steps[0] += 1

    register_optimizer_step_post_hook(count)
    return steps


def _version(tensor: Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version


def _digest(weights: dict[str, Tensor]) -> str:
    ordered = sorted(weights.items())
    names = [f"{name} {tensor.dtype} {tuple(tensor.shape)}" for name, tensor in ordered]
    digest = hashlib.sha256("\n".join(names).encode())
    digest.update(torch.cat([_sample(tensor) for _, tensor in ordered]).cpu().numpy().tobytes())
    return digest.hexdigest()


def _sample(tensor: Tensor) -> Tensor:
    """Bytes of evenly spaced numbers; as bytes because numpy has no bfloat16."""
    numbers = tensor.flatten()[:: max(1, tensor.numel() // _NUMBERS_PER_WEIGHT)][:_NUMBERS_PER_WEIGHT]
    return numbers.contiguous().view(torch.uint8)
