"""A tool that lets an agent say how hard a search should try."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from langchain_core.callbacks import Callbacks
from langchain_core.documents import Document
from langchain_core.tools import StructuredTool
from pydantic import BaseModel, Field, StringConstraints, create_model

from langchain_st_plugins.retriever import ElasticRetriever

_OPTIONS = ("k", "fetch_k", "layer", "dim", "exit", "score_threshold")


def create_budget_tool(
    retriever: ElasticRetriever,
    name: str,
    description: str,
    *,
    efforts: Mapping[str, Mapping[str, Any]],
    default: str | None = None,
    document_separator: str = "\n\n",
) -> StructuredTool:
    """A search tool with the arguments ``query`` and ``effort``, the efforts being budgets you name.

    The tool's message holds the texts of the documents, its ``artifact`` the documents themselves. The retriever runs
    inside the tool's run, so its events and what it cost are traced there. Bad arguments of the model, an unknown
    effort or a blank query, become an error message that it can repair; bad budgets of yours are refused here and now.

    Args:
        retriever: Who searches.
        name: For the model.
        description: For the model: what can be found.
        efforts: For each effort the options of a call, out of ``k``, ``fetch_k``, ``layer``, ``dim``, ``exit`` and
            ``score_threshold``; what is left out is the retriever's.
        default: Effort of a call that names none; None takes the first.
        document_separator: Between the documents.

    Returns:
        StructuredTool: For ``create_agent`` and ``bind_tools``.

    Raises:
        ValueError: If there are no efforts, an option is unknown, or the default is no effort.
        SizeError, ExitError, TypeError: If an effort cannot be run.

    Example:
        >>> from langchain_st_plugins import ElasticEmbeddings
        >>> embeddings = ElasticEmbeddings(model="minilm-elastic")
        >>> retriever = ElasticRetriever.from_texts(["Cats purr.", "Banks lend money."], embeddings, k=1)
        >>> efforts = {"fast": {"layer": 3, "dim": 128}, "best": {}}
        >>> tool = create_budget_tool(retriever, "facts", "Facts about pets and money.", efforts=efforts)
        >>> tool.invoke({"query": "pets", "effort": "fast"})
        'Cats purr.'
    """
    budgets = _checked(retriever, efforts)
    default = next(iter(budgets)) if default is None else default
    if default not in budgets:
        raise ValueError(f"default must be one of the efforts, {list(budgets)}, got {default!r}.")

    def answer(documents: list[Document]) -> tuple[str, list[Document]]:
        return document_separator.join(document.page_content for document in documents), documents

    def search(query: str, effort: str = default, callbacks: Callbacks = None) -> tuple[str, list[Document]]:
        return answer(retriever.invoke(query, {"callbacks": callbacks}, **budgets[effort]))

    async def asearch(query: str, effort: str = default, callbacks: Callbacks = None) -> tuple[str, list[Document]]:
        return answer(await retriever.ainvoke(query, {"callbacks": callbacks}, **budgets[effort]))

    return StructuredTool.from_function(
        search,
        asearch,
        name=name,
        description=description,
        args_schema=_schema(budgets, default),
        response_format="content_and_artifact",
    )


def _checked(retriever: ElasticRetriever, efforts: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The efforts, each tried: an error of the retriever would later end the agent, and nobody could repair it."""
    if not efforts:
        raise ValueError('efforts must name at least one budget, got none. For instance {"fast": {"layer": 2}}.')
    for effort, options in efforts.items():
        unknown = sorted(set(options) - set(_OPTIONS))
        if unknown:
            raise ValueError(f"An effort may set {list(_OPTIONS)}, but {effort!r} sets {unknown}.")
        retriever.invoke("Can this be run?", **options)
    return {effort: dict(options) for effort, options in efforts.items()}


def _schema(budgets: dict[str, dict[str, Any]], default: str) -> type[BaseModel]:
    query: Any = Annotated[str, StringConstraints(pattern=r"\S"), Field(description="what to look up")]
    told = "; ".join(f"{effort}: {_described(options)}" for effort, options in budgets.items())
    effort: Any = Annotated[Literal[tuple(budgets)], Field(description=f"how hard to try, {told}")]
    return create_model("BudgetSearch", query=(query, ...), effort=(effort, default))


def _described(options: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in options.items()) or "the default"
