"""Queries and documents embedded as arrays by any LangChain embeddings; a budget needs ElasticEmbeddings."""

import contextvars
import functools
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any

import numpy as np
from langchain_core.embeddings import Embeddings
from langchain_core.runnables import run_in_executor

from langchain_st_plugins.budgets import Budget
from langchain_st_plugins.embeddings import ElasticEmbeddings
from langchain_st_plugins.texts import check_texts
from langchain_st_plugins.unit_vectors import unit_vectors


def query_vectors(embeddings: Embeddings, texts: Sequence[str], budget: Budget) -> tuple[np.ndarray, np.ndarray | None]:
    """Embed queries, all in one call where the embeddings can.

    Args:
        embeddings: Any.
        texts: n queries.
        budget: What each may cost.

    Returns:
        tuple: (n, dim) unit vectors, and (n,) layers of exit, or None.

    Raises:
        ValueError: If a layer or exit is asked of embeddings that have none.
        Else as :meth:`ElasticEmbeddings.encode`.

    Example:
        >>> vectors, layers = query_vectors(ElasticEmbeddings(model="minilm-elastic"), ["A text"], Budget(layer=3))
        >>> vectors.shape
        (1, 384)
    """
    if isinstance(embeddings, ElasticEmbeddings):
        return embeddings.encode_with_exits(texts, kind="query", **budget._asdict(), show_progress=False)
    check_budget(embeddings, budget)
    check_texts(texts)
    return unit_vectors([embeddings.embed_query(text) for text in texts], dim=budget.dim), None


def document_vectors(
    embeddings: Embeddings, texts: Sequence[str], made: Budget, *, show_progress: bool | None = None
) -> np.ndarray:
    """Embed documents the way an index was made, whatever else the embeddings would do by default.

    Args:
        embeddings: Any.
        texts: n documents.
        made: Layer, dim and exit of the index.
        show_progress: For ElasticEmbeddings; None takes their field.

    Returns:
        np.ndarray: (n, width) unit vectors.
    """
    if isinstance(embeddings, ElasticEmbeddings):
        fields = {"layer": made.layer, "dim": made.dim, "document_exit": made.exit}
        return embeddings.model_copy(update=fields).encode(texts, show_progress=show_progress)
    check_texts(texts)
    return unit_vectors(embeddings.embed_documents(list(texts)), dim=made.dim)


def check_budget(embeddings: Embeddings, budget: Budget) -> None:
    """Raise a ValueError if a layer or an exit is asked of embeddings that are not elastic."""
    for name in ("layer", "exit"):
        if getattr(budget, name) is not None and not isinstance(embeddings, ElasticEmbeddings):
            raise ValueError(
                f"{name} needs ElasticEmbeddings, got {name}={getattr(budget, name)!r} for "
                f"{type(embeddings).__name__}. Leave it out, or embed with ElasticEmbeddings."
            )


def made_with(embeddings: Embeddings) -> Budget:
    """How new documents are embedded: layer, dim and exit."""
    return embeddings.budget("document") if isinstance(embeddings, ElasticEmbeddings) else Budget()


def fingerprint_of(embeddings: Embeddings) -> str:
    """Identity of a model; of embeddings that have none of their own, what their class and their model are called."""
    if isinstance(embeddings, ElasticEmbeddings):
        return embeddings.fingerprint
    kind = type(embeddings)
    return f"{kind.__module__}.{kind.__qualname__} {model_name(embeddings)}"


def model_name(embeddings: Embeddings) -> str:
    """What the model of some embeddings is called, or what its class is."""
    for name in ("model", "model_name"):
        if isinstance(getattr(embeddings, name, None), str):
            return getattr(embeddings, name)
    return type(getattr(embeddings, "encoder", embeddings)).__name__


async def run_beside(embeddings: Embeddings, function: Callable[..., Any], *arguments: Any) -> Any:
    """Run what embeds off the event loop: on the model's own thread if it has one, so that no one else has to wait."""
    executor: Executor | None = getattr(embeddings, "executor", None)
    run = contextvars.copy_context().run  # a filter may read the caller's context
    return await run_in_executor(executor, run, function, *arguments)


def beside(method: Callable[..., Any]) -> Callable[..., Any]:
    """The asynchronous twin of a method of an object with ``embeddings``: same arguments, by :func:`run_beside`."""

    @functools.wraps(method)
    async def call(self: Any, *arguments: Any, **options: Any) -> Any:
        return await run_beside(self.embeddings, functools.partial(method, self, *arguments, **options))

    return call
