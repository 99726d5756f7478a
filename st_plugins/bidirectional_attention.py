"""Makes a decoder of a sentence-transformers model see both ways. Trains nothing; un-masking alone rarely helps."""

from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Transformer

from st_plugins.errors import UnsupportedModelError
from st_plugins.model_settings import with_settings_of
from st_plugins.modules.bidirectional_transformer import BidirectionalTransformer
from st_plugins.modules.elastic_transformer import ElasticTransformer


def bidirectional(model: SentenceTransformer) -> SentenceTransformer:
    """The same model with a decoder whose every token sees every token, not only those before it.

    A decoder was trained to see the past, so the result has to be trained before its vectors are good. The pooling
    stays what it was, mostly ``lasttoken``; with full attention ``mean`` is usual, see LLM2Vec. It is saved and loaded
    like any model, with the proof run again, and can be made elastic: ``elastic(bidirectional(model))``.

    Args:
        model: A model whose first module is a ``Transformer`` around a decoder: Llama, Mistral, Qwen2, Qwen3, Gemma 2,
            Gemma 3 (text), Phi-3, SmolLM3, or another that passes the proof. It is left as it is, and stays causal;
            the new one shares its weights and its tokenizer.

    Returns:
        SentenceTransformer: Its first module is a :class:`~st_plugins.modules.BidirectionalTransformer`.

    Raises:
        UnsupportedModelError: If the first module is not a ``Transformer``, or its model is no decoder or cannot be
            un-masked, see :func:`st_plugins.unmasking.unmasked`; if ``max_seq_length`` is above the window of a layer.

    References:
        LLM2Vec, https://arxiv.org/abs/2404.05961.

    Example:
        >>> from transformers import LlamaConfig, LlamaModel
        >>> bert = SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2")
        >>> _ = bert.tokenizer.save_pretrained("tiny-llama")
        >>> config = LlamaConfig(vocab_size=30522, hidden_size=32, intermediate_size=64, num_hidden_layers=2)
        >>> LlamaModel(config).save_pretrained("tiny-llama")
        >>> bidirectional(SentenceTransformer("tiny-llama")).encode("A text").shape
        (32,)
        >>> bidirectional(bert)
        Traceback (most recent call last):
        st_plugins.errors.UnsupportedModelError: ...the tokens of BertModel see later ones already. Use it as it is.
    """
    first = model[0]
    if isinstance(first, ElasticTransformer):
        raise UnsupportedModelError(
            "The model must not be elastic yet, but its first module is an ElasticTransformer. "
            "Un-mask the plain model first: st_plugins.elastic(st_plugins.bidirectional(model))."
        )
    if isinstance(first, BidirectionalTransformer):
        raise UnsupportedModelError(
            "The model must be causal, but its first module is a BidirectionalTransformer already. Use it as it is."
        )
    if type(first) is not Transformer:
        raise UnsupportedModelError(
            f"The first module must be sentence-transformers' Transformer, got {type(first).__name__}. "
            "Only transformers have attention to un-mask."
        )
    if "forward" in first.__dict__:
        raise UnsupportedModelError(
            f"The forward of the first module must be its class's own, got {first.forward!r} in its place. "
            "Save the model, load it again, and un-mask that one."
        )
    modules = dict(model.named_children())
    modules[next(iter(modules))] = BidirectionalTransformer.from_transformer(first)
    return with_settings_of(model, modules)
