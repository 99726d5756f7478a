"""Lets a model with rotary positions read longer texts, near tokens where they are and far ones in groups."""

from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Transformer

from st_plugins.counts import check_counts
from st_plugins.errors import SizeError, UnsupportedModelError
from st_plugins.grouped_attention import check_grouping
from st_plugins.long_texts.copied_transformers import copied_transformer, with_transformer
from st_plugins.modules import SelfExtendTransformer


def self_extend(model: SentenceTransformer, max_length: int, *, group_size: int, window: int) -> SentenceTransformer:
    """The same model for texts of up to ``max_length`` tokens; nothing is trained. Short texts keep their vectors.

    See :class:`~st_plugins.modules.SelfExtendTransformer`, which its first module becomes. A larger window leaves more
    texts as they were and needs larger groups. LongEmbed takes, for a model of 512 positions, groups of 3 and a window
    of 256 for 1,024 tokens, 5 and 128 for 2,048, 9 and 64 for 4,096; for one of 4,096 positions 3 and 2,048 for 8,192.

    Args:
        model: Starts with a plain ``Transformer``; left as it is, the result shares its weights.
        max_length: L, tokens, special ones included.
        group_size: g.
        window: w.

    Returns:
        SentenceTransformer: Its ``max_seq_length`` is ``max_length``.

    Raises:
        UnsupportedModelError: If the first module is another one, or its positions cannot be grouped.
        SizeError: If a number is not a positive integer, or two tokens would be further apart than the model has
            positions: floor((L - 1) / g) + w - floor(w / g) above them.

    Example:
        >>> from transformers import LlamaConfig, LlamaModel
        >>> from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
        >>> bert = SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2")
        >>> _ = bert.tokenizer.save_pretrained("tiny-llama")
        >>> options = {"vocab_size": 30522, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
        >>> LlamaModel(LlamaConfig(**options, max_position_embeddings=512)).save_pretrained("tiny-llama")
        >>> model = SentenceTransformer(modules=[Transformer("tiny-llama"), Pooling(32, "lasttoken")])
        >>> longer = self_extend(model, 1024, group_size=3, window=256)
        >>> longer.max_seq_length
        1024
        >>> bool(abs(longer.encode("A text") - model.encode("A text")).max() < 1e-6)
        True
    """
    check_counts("self_extend", max_length=max_length, group_size=group_size, window=window)
    transformer = copied_transformer(model, "self_extend")
    if type(transformer) is not Transformer:
        raise UnsupportedModelError(
            f"self_extend needs a first module that is a plain Transformer, got {type(transformer).__name__}. "
            "Extend the plain model."
        )
    check_grouping(transformer.auto_model)
    positions = transformer.auto_model.config.max_position_embeddings
    farthest = (max_length - 1) // group_size + window - window // group_size if max_length > window else max_length - 1
    if farthest > positions:
        raise SizeError(
            f"No two tokens may be further apart than the model has positions, {positions}, and with "
            f"max_length={max_length}, group_size={group_size}, window={window} they would be {farthest}. Take larger "
            "groups or a smaller window."
        )
    extended = SelfExtendTransformer.from_transformer(transformer, group_size, window)
    extended.auto_model.config.max_position_embeddings = max_length  # or loading would cut texts to what it was
    extended.max_seq_length = max_length
    extended.tokenizer.model_max_length = max_length
    return with_transformer(model, extended)
