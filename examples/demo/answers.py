"""Questions to the held-out documentation, through LangChain."""

import statistics
import time

from langchain_core.documents import Document
from sentence_transformers import SentenceTransformer

from corpus import Pair
from langchain_st_plugins import ElasticEmbeddings, ElasticRetriever

QUESTIONS = 5
_REPEATS = 7


def answer_questions(model: SentenceTransformer, pairs: list[Pair], sizes: list[tuple[int, int]]) -> None:
    """Five questions at the full size, then one of them at each budget with its latency."""
    documents = [
        Document(page_content=pair.document, metadata={"source": pair.source}, id=str(index))
        for index, pair in enumerate(pairs)
    ]
    retriever = ElasticRetriever.from_documents(documents, ElasticEmbeddings(encoder=model), k=1, show_progress=True)
    asked = pairs[:: len(pairs) // QUESTIONS][:QUESTIONS]
    for pair in asked:
        print(f"\nQ  {pair.question[:100]}")
        found = retriever.invoke(pair.question)[0]
        print(f"A  {_gist(found)}")
        print(f"   {_verdict(found, pair)}")
    print(f"\nThe last question again, on {len(sizes)} budgets (the documents stay at full depth):")
    for layer, dim in sizes:
        milliseconds = []
        for _ in range(_REPEATS):
            started = time.perf_counter()
            found = retriever.invoke(asked[-1].question, layer=layer, dim=dim)[0]
            milliseconds.append(1000 * (time.perf_counter() - started))
        budget = f"layer {layer}, dim {dim}"
        print(f"   {budget:<18}{statistics.median(milliseconds):6.1f} ms   {_verdict(found, asked[-1])}")


def _gist(document: Document) -> str:
    """The first line that is more than a heading."""
    lines = [line.strip() for line in document.page_content.splitlines()]
    return next((line for line in lines if len(line) > 30), lines[0])[:100]


def _verdict(document: Document, pair: Pair) -> str:
    source = document.metadata["source"]
    right = "right" if source == pair.source else f"wrong, the documentation is at {pair.source}"
    return f"score {document.metadata['score']:.3f}, {source}: {right}"
