import numpy as np
import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding

from langchain_st_plugins import ElasticEmbeddings
from langchain_st_plugins.budgets import Budget
from langchain_st_plugins.embedding_calls import (
    check_budget,
    document_vectors,
    fingerprint_of,
    made_with,
    model_name,
    query_vectors,
)
from st_plugins.errors import InputError
from toy_encoder import exit_layer

FAKE = DeterministicFakeEmbedding(size=6)


def test_queries_of_elastic_embeddings_are_one_call(encoder, embeddings, texts):
    vectors, layers = query_vectors(embeddings, texts, Budget(layer=2, dim=8))
    np.testing.assert_array_equal(vectors, embeddings.encode(texts, kind="query", layer=2, dim=8))
    assert layers is None
    assert query_vectors(embeddings, texts, Budget(exit="fast"))[1].tolist() == [exit_layer(t, "fast") for t in texts]


def test_documents_are_made_as_the_index_says_whatever_the_embeddings_default_to(encoder, embeddings, texts):
    other = embeddings.with_budget(layer=2, dim=8)
    np.testing.assert_array_equal(document_vectors(other, texts, Budget()), embeddings.encode(texts))
    early = document_vectors(other, texts, Budget(dim=4, exit="fast"))
    np.testing.assert_array_equal(early, embeddings.encode(texts, dim=4, exit="fast"))
    assert made_with(ElasticEmbeddings(encoder=encoder, layer=2, exit="fast", document_exit="balanced")) == (
        2,
        None,
        "balanced",
    )


def test_any_embeddings_will_do_at_any_dim(texts):
    for vectors in (query_vectors(FAKE, texts, Budget(dim=4))[0], document_vectors(FAKE, texts, Budget(dim=4))):
        expected = np.array(FAKE.embed_documents(texts))[:, :4]
        np.testing.assert_allclose(vectors, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-6)
    assert made_with(FAKE) == (None, None, None)
    for call in (query_vectors, document_vectors):
        with pytest.raises(InputError, match="position 0 is blank"):
            call(FAKE, [" "], Budget())


@pytest.mark.parametrize("asked", [{"layer": 2}, {"exit": "fast"}])
def test_budgets_are_for_elastic_embeddings(asked):
    (name,) = asked
    for call in (lambda: check_budget(FAKE, Budget(**asked)), lambda: query_vectors(FAKE, ["a"], Budget(**asked))):
        with pytest.raises(ValueError, match=rf"{name} needs ElasticEmbeddings, got {name}=.* DeterministicFakeEmb"):
            call()


def test_embeddings_without_an_identity_are_known_by_class_and_model(encoder, embeddings):
    class Hosted:
        model_name = "some/model"

    assert fingerprint_of(embeddings) == "toy/1"
    assert fingerprint_of(Hosted()).endswith("Hosted some/model")
    assert (model_name(FAKE), model_name(embeddings)) == ("DeterministicFakeEmbedding", "ToyEncoder")
    assert model_name(ElasticEmbeddings(model="some/folder")) == "some/folder"
