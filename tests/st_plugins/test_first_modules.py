import pytest
import torch

from st_plugins.errors import UnsupportedModelError
from st_plugins.first_modules import elastic_transformer, layered_module, unwrapped


def test_wrappers_are_looked_through(model):
    parallel = torch.nn.DataParallel(model)
    assert unwrapped(model) is unwrapped(parallel) is model
    assert unwrapped(torch.compile(model, backend="eager")) is model
    assert unwrapped(torch.compile(parallel, backend="eager")) is model
    assert unwrapped(torch.nn.DataParallel(torch.compile(model, backend="eager"))) is model
    assert elastic_transformer(parallel, "a test") is model[0]


def test_a_plain_model_is_refused_by_name(plain):
    with pytest.raises(UnsupportedModelError, match="for a test must be elastic, got one that starts with Transformer"):
        elastic_transformer(plain, "a test")


def test_what_is_no_model_is_refused_by_name():
    with pytest.raises(UnsupportedModelError, match="must be a SentenceTransformer, wrapped or not, got Linear. Build"):
        elastic_transformer(torch.nn.Linear(1, 1), "a test")


def test_a_first_module_with_layers_need_not_be_a_transformer(model, plain):
    assert layered_module(torch.nn.DataParallel(model), "a test") is model[0]
    with pytest.raises(UnsupportedModelError, match="for a test must be elastic"):
        layered_module(plain, "a test")
