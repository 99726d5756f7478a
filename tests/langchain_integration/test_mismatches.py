import warnings

import numpy as np
import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding

from langchain_st_plugins import ElasticEmbeddings
from langchain_st_plugins.budgets import Budget
from langchain_st_plugins.index import ElasticIndex
from langchain_st_plugins.mismatches import canary_vector, check_canary, check_same_space
from st_plugins.errors import IndexMismatchError


def turned(cosine):
    """Two unit vectors with this cosine."""
    one = np.array([1.0, 0.0], dtype=np.float32)
    return one, np.array([cosine, (1 - cosine**2) ** 0.5], dtype=np.float32)


def test_the_canary_is_embedded_as_the_documents_were(encoder, embeddings):
    vector = canary_vector(embeddings.with_budget(layer=4, dim=8), Budget(layer=2, dim=None, exit=None))
    assert vector.shape == (32,)
    assert encoder.calls[-1][0] == "document"
    assert encoder.calls[-1][2]["layer"] == 2
    assert canary_vector(DeterministicFakeEmbedding(size=6), Budget(dim=4)).shape == (4,)


@pytest.mark.parametrize("cosine", [1.0, 0.99])
def test_the_same_model_passes(cosine):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_canary(*turned(cosine))


def test_a_changed_prompt_or_precision_is_a_warning():
    with pytest.warns(UserWarning, match=r"have a cosine of 0\.930: a prompt, a precision or the weights may have"):
        check_canary(*turned(0.93))


def test_another_model_is_an_error_or_a_warning():
    with pytest.raises(IndexMismatchError, match=r"differ: canary: .* have a cosine of 0\.390\. Open the index"):
        check_canary(*turned(0.39))
    with pytest.raises(IndexMismatchError, match=r"have a cosine of nan\. Open the index"):
        check_canary(np.array([np.nan, 1.0]), np.ones(2))
    with pytest.raises(IndexMismatchError, match=r"differ: width: index=2, embeddings=3\."):
        check_canary(np.ones(2), np.ones(3))
    with pytest.warns(UserWarning, match="cosine of 0.390"):
        check_canary(*turned(0.39), on_mismatch="warn")


def test_every_difference_is_named(encoder, embeddings):
    index = ElasticIndex(fingerprint=embeddings.fingerprint, dim=8)
    check_same_space(index, embeddings, dim=8)
    check_same_space(index, None)
    encoder.fingerprint = "toy/2"
    with pytest.raises(
        IndexMismatchError, match=r"fingerprint: index=toy/1, embeddings=toy/2; dim: index=8, embeddings=9"
    ):
        check_same_space(index, ElasticEmbeddings(encoder=encoder), dim=9)
    with pytest.warns(UserWarning, match="fingerprint: index=toy/1"):
        check_same_space(index, ElasticEmbeddings(encoder=encoder), on_mismatch="warn")
