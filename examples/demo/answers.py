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
        print(f"\nQ: {pair.question[:100]}")
        _show(retriever.invoke(pair.question)[0])
    question = asked[0].question
    print(f"\nThe first question again, on {len(sizes)} budgets (documents stay at full depth):")
    for layer, dim in sizes:
        retriever.invoke(question, layer=layer, dim=dim)
        milliseconds = []
        for _ in range(_REPEATS):
            started = time.perf_counter()
            found = retriever.invoke(question, layer=layer, dim=dim)[0]
            milliseconds.append(1000 * (time.perf_counter() - started))
        print(f"  layer {layer}, dim {dim:<4} {statistics.median(milliseconds):6.1f} ms", end="  ")
        print(f"{found.metadata['score']:.3f}  {found.metadata['source']}")


def _show(document: Document) -> None:
    first_line = document.page_content.strip().splitlines()[0]
    print(f"   {document.metadata['score']:.3f}  {document.metadata['source']}")
    print(f"          {first_line[:90]}")
