"""Questions to the held-out documentation, through LangChain."""

import statistics
import time

from langchain_core.documents import Document
from sentence_transformers import SentenceTransformer

from corpus import Pair
from langchain_st_plugins import ElasticEmbeddings, ElasticRetriever

QUESTIONS = 5
_REPEATS = 7
_SHOWN = 3


def answer_questions(model: SentenceTransformer, pairs: list[Pair], sizes: list[tuple[int, int]]) -> None:
    """Five questions at the full size, then one that was answered at each budget with its latency."""
    documents = [
        Document(page_content=pair.document, metadata={"source": pair.source}, id=str(index))
        for index, pair in enumerate(pairs)
    ]
    embeddings = ElasticEmbeddings(encoder=model)
    retriever = ElasticRetriever.from_documents(documents, embeddings, k=_SHOWN, show_progress=True)
    asked = pairs[:: len(pairs) // QUESTIONS][:QUESTIONS]
    answered, among_shown = [], 0
    for pair in asked:
        print(f"\nQ  {pair.question[:100]}")
        found = retriever.invoke(pair.question)
        for document in found:
            right = document.metadata["source"] == pair.source
            print(f" {'>' if right else ' '} {document.metadata['score']:.3f}  {document.metadata['source']}")
            print(f"          {_gist(document)}")
        among_shown += any(document.metadata["source"] == pair.source for document in found)
        answered += [pair] if found[0].metadata["source"] == pair.source else []
    print("\n> marks the documentation that belongs to the question:", end=" ")
    print(f"first in {len(answered)} of {QUESTIONS}, among the first {_SHOWN} in {among_shown}.")
    again = (answered or asked)[0]
    print(f"\n{again.question[:60]!r} on {len(sizes)} budgets (documents stay at full depth):")
    for layer, dim in sizes:
        _ask_on_budget(retriever, again, layer, dim)


def _ask_on_budget(retriever: ElasticRetriever, pair: Pair, layer: int, dim: int) -> None:
    milliseconds = []
    for _ in range(_REPEATS):
        started = time.perf_counter()
        first = retriever.invoke(pair.question, layer=layer, dim=dim)[0]
        milliseconds.append(1000 * (time.perf_counter() - started))
    mark = ">" if first.metadata["source"] == pair.source else " "
    budget = f"layer {layer}, dim {dim}"
    print(f" {mark} {budget:<18}{statistics.median(milliseconds):6.1f} ms  {first.metadata['score']:.3f}", end="  ")
    print(first.metadata["source"])


def _gist(document: Document) -> str:
    """The first line that is more than a heading."""
    lines = [line.strip() for line in document.page_content.splitlines()]
    return next((line for line in lines if len(line) > 30), lines[0])[:90]
