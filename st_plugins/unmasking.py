"""Lets every token of a decoder see every token, and proves it. Trains nothing: a decoder was trained to see the past.

transformers 5.2 and newer read ``config.is_causal``. Older ones do not; there, a subclass of the model's own class
hands its forward a mask of four dimensions, which the family takes as it is.
"""

import copy
import functools
from typing import Any, NamedTuple

import torch
import transformers
from packaging.version import Version
from sentence_transformers.sentence_transformer.modules import Transformer
from torch import Tensor, nn

from st_plugins.errors import UnsupportedModelError
from st_plugins.modes import evaluating

CONFIG_UNMASKS = Version(transformers.__version__) >= Version("5.2")
_KERNELS_OF_MASKS = ("eager", "sdpa")
_KNOWN_LAYER_TYPES = {"full_attention", "sliding_attention"}
# Without influence the change is 0, or rounding.
_LEAST_CHANGE = 1e-5


def unmasked(network: nn.Module) -> nn.Module:
    """The same decoder without its causal mask, sharing all parameters and buffers.

    In attention, with q_i, k_j, v_j of tokens i, j and P the positions that are no padding::

        causal:    o_i = sum over j in P, j <= i of softmax_j(q_i k_j / sqrt(d)) v_j
        unmasked:  o_i = sum over j in P         of softmax_j(q_i k_j / sqrt(d)) v_j

    Whether that is so is tried on eight short texts, some padded left or right: attention that looks unmasked without
    padding can be causal with it. The key-value cache is switched off.

    Args:
        network: A ``PreTrainedModel``; left as it is. One whose configuration says ``is_causal=False`` and that does
            what it says is returned itself.

    Returns:
        nn.Module: A model of the same family whose configuration says ``is_causal=False``.

    Raises:
        UnsupportedModelError: If its tokens see later ones already, if they still do not, if padding shows in the
            result, if layers are neither attention nor a window of it, or, before transformers 5.2, if the attention is
            neither eager nor sdpa.

    References:
        Un-masked decoders: LLM2Vec, https://arxiv.org/abs/2404.05961. The proof on padded texts: ours.

    Example:
        >>> from transformers import LlamaConfig, LlamaModel
        >>> decoder = LlamaModel(LlamaConfig(vocab_size=99, hidden_size=32, intermediate_size=64, num_hidden_layers=2))
        >>> unmasked(decoder).config.is_causal
        False
        >>> unmasked(decoder).norm.weight is decoder.norm.weight
        True
    """
    _check_layer_types(network)
    found = _influences(network)
    if not found.late > _LEAST_CHANGE:
        network = _without_causal_mask(network)
        found = _influences(network)
    elif not is_unmasked(network):
        raise UnsupportedModelError(
            f"The model must be a decoder, whose tokens see only what came before them; the tokens of "
            f"{type(network).__name__} see later ones already. Use it as it is."
        )
    if not found.late > _LEAST_CHANGE:
        raise UnsupportedModelError(
            f"{type(network).__name__} stays causal with is_causal=False: some first token does not see the last one "
            f"(relative change {found.late:.1e}). This architecture needs support in st_plugins/unmasking.py."
        )
    if not found.padding <= (1e-4 if network.dtype in (torch.float32, torch.float64) else 5e-2):
        raise UnsupportedModelError(
            f"Padding must not change a text, but in {type(network).__name__} without its causal mask it does "
            f"(relative change {found.padding:.1e}). This architecture needs support in st_plugins/unmasking.py."
        )
    return network


def is_unmasked(network: nn.Module) -> bool:
    """Whether the configuration of a network says that every token sees every token."""
    return getattr(network.config, "is_causal", None) is False


def restore_attention(transformer: Transformer) -> None:
    """Un-mask the network a module has just loaded, if its configuration says so, and prove it again.

    Args:
        transformer: Its ``model`` is replaced; one with any other configuration is left as it is.

    Raises:
        UnsupportedModelError: As :func:`unmasked` and :func:`check_windows`.
    """
    if is_unmasked(transformer.model):
        transformer.model = unmasked(transformer.model)
        check_windows(transformer)


def check_windows(transformer: Transformer) -> None:
    """Refuse texts longer than the attention window of an un-masked network; within it, no token misses another.

    Past it, transformers 5 would give each token a window on both sides, and the mask of older ones none.

    Args:
        transformer: A module with any network; without windows, or with its causal mask, there is nothing to refuse.

    Raises:
        UnsupportedModelError: If a length limit of the module is above the window.
    """
    config = transformer.model.config
    types = getattr(config, "layer_types", None)
    window = getattr(config, "sliding_window", None)
    if not is_unmasked(transformer.model) or not window or (types and "sliding_attention" not in types):
        return
    for name in ("max_seq_length", "query_length", "document_length"):
        limit = getattr(transformer, name, None)  # sentence-transformers 5.7 lacks the last two
        if limit is not None and limit > window:
            raise UnsupportedModelError(
                f"{name} must be at most {window}, got {limit}: layers of {type(transformer.model).__name__} see a "
                f"window of {window} tokens, so in a longer text not every token would see every token. "
                f"Set model[0].{name} = {window}, or pass it where the module is built."
            )


class _Influences(NamedTuple):
    """Relative changes of token states."""

    late: float  # of a first token, the least over all texts, when the last one is another
    padding: float  # of all tokens, the greatest over all texts, when the padding is


@torch.no_grad()
def _influences(network: nn.Module) -> _Influences:
    device = network.device
    if device.type == "cpu" and network.config._attn_implementation not in _KERNELS_OF_MASKS:
        network = _copy_of_structure(network)  # other kernels need the GPU the model is not on yet
        network.config._attn_implementation = "eager"
    ids, mask = _probe(network.get_input_embeddings().weight.shape[0])
    with evaluating(network):
        padded = network(input_ids=ids.to(device), attention_mask=mask.to(device))[0]
        full = network(input_ids=ids[:2].to(device), attention_mask=mask[:2].to(device))[0]
    pairs = [(full[0, :1], full[1, :1]), (padded[0, :1], padded[1, :1])]
    pairs += [(padded[2, :1], padded[3, :1]), (padded[5, 2:3], padded[6, 2:3])]
    late = [_relative_change(*pair) for pair in pairs]
    padding = [_relative_change(padded[2, :4], padded[4, :4]), _relative_change(padded[5, 2:], padded[7, 2:])]
    return _Influences(min(late), max(padding))


def _probe(vocabulary: int) -> tuple[Tensor, Tensor]:
    """Eight texts and their mask, (8, 6) each: unpadded, and a shorter one padded right and left.

    After each text comes the same one with another last token; after the padded ones, also with other padding.
    """
    drawn = torch.randperm(vocabulary, generator=torch.Generator().manual_seed(0))[:9].tolist()
    text, other, pad, filler = drawn[:6], drawn[6], drawn[7], drawn[8]
    short = text[:4]
    changed = [*text[:3], other]
    rows = [text, [*text[:5], other]]
    rows += [[*short, pad, pad], [*changed, pad, pad], [*short, filler, filler]]
    rows += [[pad, pad, *short], [pad, pad, *changed], [filler, filler, *short]]
    mask = torch.ones(8, 6, dtype=torch.long)
    mask[2:5, 4:] = 0
    mask[5:, :2] = 0
    return torch.tensor(rows), mask


def _relative_change(states: Tensor, others: Tensor) -> float:
    return float((states - others).abs().max() / states.abs().max().clamp_min(1e-9))


def _check_layer_types(network: nn.Module) -> None:
    types = getattr(network.config, "layer_types", None) or []
    unknown = sorted(set(types) - _KNOWN_LAYER_TYPES)
    if unknown:
        raise UnsupportedModelError(
            f"The layers must be full_attention or sliding_attention, but {type(network).__name__} has {unknown}, "
            "which would go on hiding tokens from one another. Use a family without them."
        )


def _copy_of_structure(network: nn.Module) -> nn.Module:
    """New modules and configurations around the same parameters and buffers, also once those are moved or cast."""
    memo = {id(held): held for module in network.modules() for held in (module._parameters, module._buffers)}
    return copy.deepcopy(network, memo)


def _without_causal_mask(network: nn.Module) -> Any:
    copied: Any = _copy_of_structure(network)
    copied.config.is_causal = False
    copied.config.use_cache = False
    if not CONFIG_UNMASKS:
        _check_kernel(network)
        copied.__class__ = _unmasked_class(copied.__class__)
    return copied


@functools.cache
def _unmasked_class(family: Any) -> type[nn.Module]:
    """A subclass of a Hugging Face model class that gives its forward a mask of four dimensions."""

    @functools.wraps(family.forward)
    def forward(self: Any, input_ids: Any = None, attention_mask: Any = None, *args: Any, **kwargs: Any) -> Any:
        tokens = input_ids if input_ids is not None else kwargs["inputs_embeds"]
        return family.forward(self, input_ids, _full_mask(self, tokens, attention_mask), *args, **kwargs)

    def reduce(self: Any) -> tuple[Any, ...]:
        return _empty, (family,), self.__dict__

    # transformers looks its classes up by module and name, and writes the name into config.json.
    names = {name: getattr(family, name) for name in ("__module__", "__qualname__", "__doc__")}
    return type(family.__name__, (family,), {**names, "forward": forward, "__reduce__": reduce})


def _empty(family: Any) -> nn.Module:
    return object.__new__(_unmasked_class(family))


def _full_mask(network: Any, tokens: Tensor, attention_mask: Tensor | None) -> Tensor:
    """The mask (B, T) for every query alike: (B, 1, T, T), in the form that the attention in use reads."""
    _check_kernel(network)
    if attention_mask is None:
        attention_mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
    seen = attention_mask.bool()[:, None, None, :].expand(-1, -1, tokens.shape[1], -1)
    if network.config._attn_implementation == "sdpa":
        return seen
    hidden = torch.zeros(seen.shape, dtype=network.dtype, device=seen.device)
    return hidden.masked_fill(~seen, torch.finfo(network.dtype).min)


def _check_kernel(network: Any) -> None:
    kernel = network.config._attn_implementation
    if kernel not in _KERNELS_OF_MASKS:
        raise UnsupportedModelError(
            f"Before transformers 5.2 an un-masked {type(network).__name__} needs eager or sdpa attention, got "
            f"{kernel!r}, which takes no mask of its own. Load it with model_kwargs={{'attn_implementation': 'sdpa'}}, "
            "or install transformers 5.2."
        )
