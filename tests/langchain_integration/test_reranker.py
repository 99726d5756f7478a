import numpy as np
import pytest
from langchain_core.documents import Document
from pydantic import ValidationError

from langchain_st_plugins import ElasticEmbeddings, FullDepthReranker
from st_plugins.errors import InputError

QUERY = "a cat at night"


@pytest.fixture
def reranker(encoder):
    return FullDepthReranker(
        embeddings=ElasticEmbeddings(encoder=encoder, layer=2, dim=4, exit="fast", document_exit="fast")
    )


def test_documents_are_sorted_by_their_cosine_at_full_size(reranker, embeddings, texts):
    documents = [Document(text, metadata={"n": i, "score": -5}) for i, text in enumerate(texts)]
    cosines = embeddings.encode(texts) @ np.array(embeddings.embed_query(QUERY))
    found = reranker.compress_documents(documents, QUERY)
    assert [document.metadata["n"] for document in found] == np.argsort(-cosines).tolist()
    np.testing.assert_allclose([document.metadata["score"] for document in found], -np.sort(-cosines), atol=1e-6)
    assert documents[0].metadata == {"n": 0, "score": -5}  # copies are returned


def test_the_best_may_be_kept_and_the_score_left_out(encoder, embeddings, texts):
    documents = [Document(text) for text in texts]
    best = FullDepthReranker(embeddings=embeddings, top_n=2, score_key=None).compress_documents(documents, QUERY)
    assert len(best) == 2
    assert [document.metadata for document in best] == [{}, {}]
    assert best[0].page_content == "a cat hunts at night"
    assert FullDepthReranker(embeddings=embeddings).compress_documents([], QUERY) == []


async def test_async_calls_give_the_same(reranker, texts):
    documents = [Document(text) for text in texts]
    assert await reranker.acompress_documents(documents, QUERY) == reranker.compress_documents(documents, QUERY)


def test_bad_input_is_refused(reranker, embeddings):
    with pytest.raises(InputError, match="position 0 is blank"):
        reranker.compress_documents([], " ")
    with pytest.raises(ValidationError, match=r"top_n\n.*greater than or equal to 1"):
        FullDepthReranker(embeddings=embeddings, top_n=0)
    with pytest.raises(ValidationError, match=r"layer\n.*Extra inputs are not permitted"):
        FullDepthReranker(embeddings=embeddings, layer=2)
