"""Modules that leave prompts out of their pooling, behind a mask that says where the prompt of each row is.

sentence-transformers takes one prompt length for a whole batch, as a number of Python, which a graph cannot have. See
``prompt_marks.py`` for the mask.
"""

from collections.abc import Iterable
from typing import Any

from sentence_transformers.sentence_transformer.modules import Pooling
from torch import Tensor, nn

_MASK = "attention_mask"
_MARKED = "marked_attention_mask"


class MarkedPooling(Pooling):
    """``Pooling(include_prompt=False)`` whose prompts may end elsewhere in each row. For tracing, not for saving.

    Args:
        embedding_dimension: As for ``Pooling``.
        pooling_mode: As for ``Pooling``.
        include_prompt: As for ``Pooling``.

    Reads: what :func:`read_marks` wrote, ``token_embeddings`` (B, T, D).
    Writes: ``sentence_embedding`` (B, D).

    Example:
        >>> marks = read_marks({"attention_mask": torch.tensor([[2, 1, 1]])})
        >>> tokens = torch.tensor([[[5.0], [1.0], [3.0]]])
        >>> MarkedPooling(1, include_prompt=False)({**marks, "token_embeddings": tokens})["sentence_embedding"]
        tensor([[2.]])
    """

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:  # the host's per-call options
        """Pool; see the class."""
        # The length only says that there is a prompt; where it is says the mask.
        pooled = super().forward({**features, _MASK: features[_MARKED], "prompt_length": 1})
        return {**features, "sentence_embedding": pooled["sentence_embedding"]}

    @staticmethod
    def _exclude_prompt_from_mask(attention_mask: Tensor, prompt_length: int) -> Tensor:
        return (attention_mask == 1).to(attention_mask.dtype)


def read_marks(features: dict[str, Any]) -> dict[str, Any]:
    """Features as modules expect them, of those with a marked mask (B, T).

    Args:
        features: With ``attention_mask``.

    Returns:
        dict: The same, but ``attention_mask`` 0/1, ``prompt_length`` (B,) as our poolings take it, and the marked mask
        under another name.
    """
    marks = features[_MASK]
    prompt_length = (marks == 2).to(marks.dtype).sum(dim=1)  # (B,)
    return {**features, _MASK: marks.sign(), "prompt_length": prompt_length, _MARKED: marks}


def behind_marks(modules: Iterable[nn.Module]) -> list[nn.Module]:
    """The modules, those of sentence-transformers that leave out prompts replaced by :class:`MarkedPooling`."""
    return [
        MarkedPooling(**module.get_config_dict()) if type(module) is Pooling and not module.include_prompt else module
        for module in modules
    ]
