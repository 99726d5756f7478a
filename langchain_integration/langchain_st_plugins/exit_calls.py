"""How encoders are asked to let texts leave early, whatever library they come from: by the names of their methods."""

import sys
from typing import Any

from st_plugins.errors import ExitError
from st_plugins.usual_prompts import usual_name


def encode_with_exits(encoder: Any, kind: str, texts: list[str], **options: Any) -> tuple[Any, Any]:
    """Vectors of texts that may leave early, and where each left.

    A SentenceTransformer goes through ``st_plugins.exits.encode_with_exits``, an encoder with a method of that name, an
    ``OnnxEncoder`` for one, through its own. Any other gets ``exit`` in ``encode_query`` or ``encode_document``.

    Args:
        encoder: As for :class:`~langchain_st_plugins.ElasticEmbeddings`.
        kind: "query" or "document"; the model's prompt for that side is used.
        texts: The texts.
        **options: ``exit``, and what else the encoder is called with.

    Returns:
        tuple: Vectors (n, width), and layers (n,), or None if the encoder does not say.

    Example:
        >>> encoder = st_plugins.load("minilm-elastic")
        >>> vectors, layers = encode_with_exits(encoder, "query", ["A text"], exit=-1.0, allow_untrained=True)
        >>> layers.tolist()
        [2]
    """
    is_host = is_sentence_transformer(encoder)
    if not is_host and not callable(getattr(encoder, "encode_with_exits", None)):
        method = encoder.encode_query if kind == "query" else encoder.encode_document
        return method(texts, **options), None
    prompt_name = usual_name(getattr(encoder, "prompts", ()), kind)
    if not is_host:
        on_route = getattr(encoder, "for_task", None)  # of an OnnxEncoder: queries may have a route of their own
        encoder = encoder if on_route is None else on_route(kind)
        return encoder.encode_with_exits(texts, prompt_name=prompt_name, **options)
    import st_plugins

    return st_plugins.exits.encode_with_exits(encoder, texts, prompt_name=prompt_name, task=kind, **options)


def exit_fingerprint(encoder: Any, exit: str | float, *, allow_untrained: bool) -> str:
    """Identity of the vectors of texts that leave early: another one whenever the same name means another policy.

    Args:
        encoder: As above.
        exit: A policy's name, or a threshold.
        allow_untrained: A threshold then means all layers, not only the trained ones.

    Raises:
        ExitError: If the encoder knows its policies, and this is none of them.
    """
    if is_sentence_transformer(encoder):
        import st_plugins

        if not allow_untrained or isinstance(exit, str):
            return st_plugins.fingerprint(encoder, exit=exit)
        return f"{st_plugins.fingerprint(encoder)} {exit} at all layers"
    known = getattr(encoder, "exit_fingerprints", None)
    if known is None:
        return str(exit)
    if exit not in known:
        raise ExitError(f"exit must be one of the policies of this encoder, {sorted(known)}, got {exit!r}.")
    return str(known[exit])


def is_sentence_transformer(encoder: Any) -> bool:
    """Whether it is one; nothing is imported to find out, since whoever made one has imported its class."""
    host = sys.modules.get("sentence_transformers")
    return host is not None and isinstance(encoder, host.SentenceTransformer)
