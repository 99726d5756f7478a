"""Which prompt a call without one gets. Imports nothing."""

from collections.abc import Container
from typing import Any

# The prompts sentence-transformers looks for on each side of a search, in its order.
_NAMES = {"query": ("query",), "document": ("document", "passage", "corpus")}


def usual_name(prompts: Container[str], task: str | None) -> str | None:
    """The name of the prompt that a side of a search takes, or None if the model has none for it.

    Args:
        prompts: Their names.
        task: "query" for ``encode_query``, "document" for ``encode_document``, None for ``encode``.

    Example:
        >>> usual_name({"passage": "passage: "}, "document")
        'passage'
    """
    return next((name for name in _NAMES.get(task or "", ()) if name in prompts), None)


def prompt_of(encoder: Any, task: str | None) -> str:
    """What an encoder puts in front of a text; perhaps nothing.

    Args:
        encoder: With ``prompts``, as a SentenceTransformer or an ``OnnxEncoder``.
        task: As for :func:`usual_name`.

    Example:
        >>> model = SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2", prompts={"query": "find: "})
        >>> prompt_of(model, "query"), prompt_of(model, "document")
        ('find: ', '')
    """
    prompts = encoder.prompts
    name = usual_name(prompts, task)
    if name is None:
        name = getattr(encoder, "default_prompt_name", None)
    return "" if name is None else prompts[name]
