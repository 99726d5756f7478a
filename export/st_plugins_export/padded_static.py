"""StaticEmbedding over padded batches: what servers can put together, in place of one long row and its offsets."""

from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer
from torch import Tensor, nn

from st_plugins.model_settings import with_settings_of

# The mask hides padding, so any token will do; these are what people look for.
_PADDING = ("[PAD]", "<pad>", "<|pad|>")


class PaddedStaticEmbedding(nn.Module):
    """The mean of the token embeddings of each text; the vectors of a ``StaticEmbedding``, whose weights it shares.

    With E the table, x the tokens and m the mask (1 = real token)::

        e = sum_t m_t E[x_t] / max(1, sum_t m_t)    (B, D)

    It is no module to keep or save: the graph of a ``StaticEmbedding`` is traced from it.

    Args:
        static: Left as it is.

    Reads: ``input_ids`` (B, T), ``attention_mask`` (B, T) 0/1.
    Writes: ``token_embeddings`` (B, T, D), ``sentence_embedding`` (B, D). A row without real tokens gives zeros.

    Example:
        >>> from tokenizers import Tokenizer, models
        >>> words = Tokenizer(models.WordLevel({"cats": 0, "sleep": 1}))
        >>> padded = PaddedStaticEmbedding(StaticEmbedding(words, embedding_weights=torch.tensor([[1.0], [3.0]])))
        >>> ids, mask = torch.tensor([[0, 1], [1, 0]]), torch.tensor([[1, 1], [1, 0]])
        >>> padded({"input_ids": ids, "attention_mask": mask})["sentence_embedding"].tolist()
        [[2.0], [3.0]]
    """

    def __init__(self, static: StaticEmbedding) -> None:
        super().__init__()
        self.weight = static.embedding.weight
        self.tokenizer = _padding_tokenizer(static.tokenizer)

    def preprocess(self, inputs: list[str], prompt: str | None = None, **kwargs: Any) -> dict[str, Tensor]:
        """Tokens (B, T) of texts, and their mask."""
        encodings = self.tokenizer.encode_batch([(prompt or "") + text for text in inputs])
        return {
            "input_ids": torch.tensor([encoding.ids for encoding in encodings], dtype=torch.long),
            "attention_mask": torch.tensor([encoding.attention_mask for encoding in encodings], dtype=torch.long),
        }

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Add the embeddings to ``features``."""
        mask = features["attention_mask"][..., None].to(self.weight.dtype)  # (B, T, 1)
        tokens = torch.nn.functional.embedding(features["input_ids"], self.weight)  # (B, T, D)
        features["token_embeddings"] = tokens
        features["sentence_embedding"] = (tokens * mask).sum(1) / mask.sum(1).clamp(min=1)  # (B, D)
        return features

    def get_embedding_dimension(self) -> int:
        """D."""
        return self.weight.shape[1]


def with_padded_inputs(model: SentenceTransformer) -> SentenceTransformer:
    """The model, with a :class:`PaddedStaticEmbedding` in front if it starts with a ``StaticEmbedding``."""
    if not isinstance(model[0], StaticEmbedding):
        return model
    modules = dict(model.named_children())
    modules[next(iter(modules))] = PaddedStaticEmbedding(model[0])
    return with_settings_of(model, modules)


def _padding_tokenizer(tokenizer: Tokenizer) -> Tokenizer:
    """A copy that pads, and adds no special tokens: StaticEmbedding asks for none."""
    copied: Any = Tokenizer.from_str(tokenizer.to_str())
    copied.post_processor = None
    name = next((name for name in _PADDING if copied.token_to_id(name) is not None), copied.id_to_token(0))
    copied.enable_padding(pad_id=copied.token_to_id(name), pad_token=name)
    return copied
