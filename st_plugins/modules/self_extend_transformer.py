"""A Transformer with rotary positions whose far tokens share positions, so that it reads longer texts untrained."""

from typing import Any, ClassVar

from sentence_transformers.sentence_transformer.modules import Transformer

from st_plugins.counts import check_counts
from st_plugins.errors import UnsupportedModelError
from st_plugins.grouped_attention import ATTENTION, check_grouping


class SelfExtendTransformer(Transformer):
    """sentence-transformers' ``Transformer`` whose attention sees near tokens where they are, and far ones in groups.

    Rotary positions tell attention how far apart two tokens are. For token i seen from j, with g the group size, w the
    window, that is::

        i - j                                                             where |i - j| < w
        floor(i / g) - floor(j / g) + sign(i - j) (w - floor(w / g))      elsewhere

    so that no distance is larger than the model was trained for. Texts of up to w tokens are embedded as before.
    EuroBERT, Llama, Mistral, NomicBERT, Qwen2 and Qwen3. Positions count from a text's first token: neither its batch
    nor padding on any side changes its vector.

    Most people get one from :func:`st_plugins.long_texts.self_extend`. It is no plain model: whoever reads a saved
    folder without this class gives longer texts other vectors. Attention scores are computed three times, in memory
    of the square of the length.

    Args:
        model_name_or_path: As for ``Transformer``.
        group_size: g, >= 1.
        window: w, >= 1.
        **kwargs: As for ``Transformer``.

    Reads: what ``Transformer`` reads, padded inputs only.

    Writes: what ``Transformer`` writes.

    Raises:
        UnsupportedModelError: If the family is another one, its positions were scaled, or inputs are flattened.
        SizeError: If ``group_size`` or ``window`` is not a positive integer.

    References:
        Jin et al., *LLM Maybe LongLM* (SelfExtend), https://arxiv.org/abs/2401.01325; in both directions: LongEmbed,
        https://arxiv.org/abs/2404.12096. Its code also multiplies queries of longer texts by a logarithm of their
        length, which is not here: that is :func:`st_plugins.long_texts.scale_attention`, for all texts alike.

    Example:
        >>> from transformers import LlamaConfig, LlamaModel
        >>> bert = SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2")
        >>> _ = bert.tokenizer.save_pretrained("tiny-llama")
        >>> config = LlamaConfig(vocab_size=30522, hidden_size=32, intermediate_size=64, num_hidden_layers=2)
        >>> LlamaModel(config).save_pretrained("tiny-llama")
        >>> SelfExtendTransformer("tiny-llama", group_size=3, window=256).window
        256
    """

    config_keys: ClassVar[list[str]] = [*Transformer.config_keys, "group_size", "window"]

    def __init__(self, model_name_or_path: str, *, group_size: int, window: int, **kwargs: Any) -> None:
        super().__init__(model_name_or_path, **kwargs)
        self._group(group_size, window)

    @classmethod
    def from_transformer(cls, transformer: Transformer, group_size: int, window: int) -> "SelfExtendTransformer":
        """The same transformer with positions by this rule.

        Args:
            transformer: A copy of one's own: the attention of its network is changed.
            group_size: g.
            window: w.

        Raises:
            UnsupportedModelError, SizeError: See the class.
        """
        extended = object.__new__(cls)
        extended.__dict__.update(transformer.__dict__)
        extended._group(group_size, window)
        return extended

    def _group(self, group_size: int, window: int) -> None:
        check_counts("SelfExtendTransformer", group_size=group_size, window=window)
        network: Any = self.auto_model
        check_grouping(network)
        self.group_size, self.window = group_size, window
        network.config.grouped_attention = [group_size, window]
        network.set_attn_implementation(ATTENTION)

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """As ``Transformer.forward``, whose ``kwargs`` are the host's."""
        if "cu_seq_lens_q" in features:
            raise UnsupportedModelError(
                "SelfExtendTransformer needs padded inputs, got flattened (unpadded) ones. "
                "Set model[0].unpad_inputs = False."
            )
        return super().forward(features, **kwargs)

    def __repr__(self) -> str:
        return f"SelfExtend{super().__repr__()}"
