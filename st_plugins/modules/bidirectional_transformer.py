"""A Transformer around a decoder whose every token sees every token. How that is done: :mod:`st_plugins.unmasking`."""

from typing import Any

from sentence_transformers.sentence_transformer.modules import Transformer
from torch import nn

from st_plugins.unmasking import CONFIG_UNMASKS, check_windows, is_unmasked, unmasked


class BidirectionalTransformer(Transformer):
    """sentence-transformers' ``Transformer`` for decoders, without their causal mask.

    Llama, Mistral, Qwen2, Qwen3, Gemma 2, Gemma 3 (text), Phi-3 and SmolLM3 are tested; any other family has to pass
    the same proof, which runs when the module is built and whenever it is loaded. A decoder was not trained to see what
    follows: its vectors become good only by training, and ``mean`` is then the usual pooling. Most people get one from
    :func:`st_plugins.bidirectional`; by hand it is built as ``Transformer`` is.

    It is saved as ``"is_causal": false`` in config.json, which transformers 5.2 and newer read: there the host's own
    ``Transformer`` loads the folder alike. Older ones do not and get a mask of four dimensions instead: eager or sdpa
    attention only, and sentence-transformers warns while loading that the setting may be ignored; here it is not.
    (transformers 5.23 ignores ``config_kwargs={"is_causal": False}`` where config.json does not have the entry yet.)

    Args:
        model_name_or_path: As for ``Transformer``.
        **kwargs: As for ``Transformer``.

    Reads and writes: what ``Transformer`` does; ``token_embeddings`` are (B, T, D).

    Raises:
        UnsupportedModelError: If the model is no decoder, or cannot be un-masked; if texts may be longer than the
            attention window of a layer, which is looked at again for each batch. Within it no token misses another.

    References:
        LLM2Vec, https://arxiv.org/abs/2404.05961; NV-Embed, https://arxiv.org/abs/2405.17428, section 3.

    Example:
        >>> from transformers import LlamaConfig, LlamaModel
        >>> bert = SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2")
        >>> _ = bert.tokenizer.save_pretrained("tiny-llama")
        >>> config = LlamaConfig(vocab_size=30522, hidden_size=32, intermediate_size=64, num_hidden_layers=2)
        >>> LlamaModel(config).save_pretrained("tiny-llama")
        >>> BidirectionalTransformer("tiny-llama").config.is_causal
        False
    """

    def __init__(self, model_name_or_path: str, **kwargs: Any) -> None:
        super().__init__(model_name_or_path, **kwargs)
        self.model: nn.Module = unmasked(self.model)
        check_windows(self)

    @classmethod
    def from_transformer(cls, transformer: Transformer) -> "BidirectionalTransformer":
        """The un-masked form of a loaded ``Transformer``; weights and tokenizer are shared, nothing is read again.

        Args:
            transformer: The module to un-mask; left as it is.

        Returns:
            BidirectionalTransformer: See the class.

        Raises:
            UnsupportedModelError: See the class.
        """
        bidirectional = object.__new__(cls)
        bidirectional.__dict__.update(transformer.__dict__)
        bidirectional.__dict__["_modules"] = {**transformer._modules, "model": unmasked(transformer.model)}
        check_windows(bidirectional)
        return bidirectional

    def preprocess(self, inputs: Any, prompt: str | None = None, **kwargs: Any) -> dict[str, Any]:
        """As ``Transformer.preprocess``, whose ``kwargs`` are the host's; refuses a length limit above a window."""
        check_windows(self)
        return super().preprocess(inputs, prompt=prompt, **kwargs)

    def __repr__(self) -> str:
        return f"Bidirectional{super().__repr__()}"


def loading_class(network: nn.Module) -> type[Transformer]:
    """The plainest module class that loads a saved network with the attention it has now.

    Args:
        network: A ``PreTrainedModel``.

    Returns:
        type[Transformer]: ``Transformer`` itself, unless only :class:`BidirectionalTransformer` can un-mask it.
    """
    return BidirectionalTransformer if is_unmasked(network) and not CONFIG_UNMASKS else Transformer
