"""The tiny models that the files of a larger loss share."""

import copy

import pytest

import generation_cases
import masking_cases
import st_plugins


@pytest.fixture(scope="session")
def _llama(tmp_path_factory, tokenizer):
    return generation_cases.build(tmp_path_factory.mktemp("llama"), tokenizer)


@pytest.fixture
def llama(_llama):
    """A tied Llama that embeds causally."""
    return copy.deepcopy(_llama)


@pytest.fixture(scope="session")
def masked_models(tmp_path_factory):
    """Plain models of each pooling, with a mask token; copy them to change them."""
    return {
        pooling: masking_cases.build(tmp_path_factory.mktemp(pooling), pooling=pooling) for pooling in ("mean", "cls")
    }


@pytest.fixture
def masked_model(masked_models):
    """One of them, elastic."""
    return st_plugins.elastic(copy.deepcopy(masked_models["mean"]))
