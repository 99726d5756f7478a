"""Trains a large model through small matrices beside its own (LoRA), by sentence-transformers' and PEFT's own means.

Only merging is done here: it puts plain weights back, so that everything that opens a model opens the result.
"""

from importlib import import_module
from typing import Any

from sentence_transformers import SentenceTransformer

from st_plugins.errors import MissingExtraError, UnsupportedModelError


def add_lora(model: SentenceTransformer, *, rank: int = 16, alpha: float = 32.0, dropout: float = 0.1) -> None:
    """Freeze the transformer, and put a trainable matrix of low rank beside each of its linear layers.

    A layer W x becomes W x + (alpha / rank) B A x, with A of ``rank`` rows and B, at first zero, of ``rank`` columns:
    the model computes what it did until it is trained. Modules behind the transformer, a pooling with weights among
    them, are trained in full. In place; this is ``model.add_adapter(peft.LoraConfig(...))``. For other settings, call
    that, and :func:`merge_lora` all the same.

    Args:
        model: Starts with sentence-transformers' ``Transformer``. Add before making the trainer of the first stage, and
            merge after the last.
        rank: Rows of A. Trainable weights grow with it.
        alpha: Divided by ``rank``, how strongly the added part counts.
        dropout: On the way into A, while training.

    Raises:
        MissingExtraError: If peft is not installed.
        UnsupportedModelError: If the model has no transformer that takes adapters, or has one already.

    References:
        Hu et al., *LoRA*, https://arxiv.org/abs/2106.09685. That NV-Embed was trained so, and with which settings, we
        could not verify: the defaults are ours.

    Example:
        >>> model = SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2")
        >>> add_lora(model, rank=4)
    """
    peft = _peft()
    if not model.has_peft_compatible_model():
        raise UnsupportedModelError(
            f"The model must have a transformer that takes adapters, this one starts with {type(model[0]).__name__}."
        )
    if _adapters(model):
        raise UnsupportedModelError(
            f"The model must have no adapter yet, this one has {sorted(_adapters(model))}. Train that one on, or call "
            "merge_lora(model) first."
        )
    model.add_adapter(
        peft.LoraConfig(
            task_type=peft.TaskType.FEATURE_EXTRACTION,
            r=rank,
            lora_alpha=alpha,
            lora_dropout=dropout,
            target_modules="all-linear",
        )
    )


def merge_lora(model: SentenceTransformer) -> None:
    """Add what LoRA learned to the weights it stands beside, and take it out: W + (alpha / rank) B A.

    The vectors stay the same up to rounding, the model is a plain one again and all of its weights are trainable. Until
    then ``save_pretrained`` writes the added matrices alone, and :func:`st_plugins.load` opens no such folder.

    Args:
        model: After :func:`add_lora`, or any LoRA through ``model.add_adapter``; in place.

    Raises:
        MissingExtraError: If peft is not installed.
        UnsupportedModelError: If there is nothing to merge.

    Example:
        >>> model = SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2")
        >>> add_lora(model)
        >>> merge_lora(model)
    """
    peft = _peft()
    if not _adapters(model):
        raise UnsupportedModelError("The model must have an adapter to merge, this one has none. Call add_lora first.")
    network: Any = model.transformers_model
    layers = {name: layer for name, layer in network.named_modules() if isinstance(layer, peft.tuners.lora.LoraLayer)}
    for name, layer in layers.items():
        layer.merge(safe_merge=True)
        network.set_submodule(name, layer.get_base_layer())
    network.delete_adapter(sorted(_adapters(model)))
    network.requires_grad_(True)


def _adapters(model: SentenceTransformer) -> dict[str, Any]:
    network = model.transformers_model
    return dict(getattr(network, "peft_config", None) or {})


def _peft() -> Any:
    """The package, when first needed."""
    try:
        return import_module("peft")
    except ModuleNotFoundError:
        raise MissingExtraError("peft", "lora") from None
