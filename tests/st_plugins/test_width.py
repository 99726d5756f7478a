import pytest
import torch
from sentence_transformers.sentence_transformer.modules import Dense

from st_plugins.errors import UnsupportedModelError
from st_plugins.modules import Truncation
from st_plugins.width import embedding_width


def test_the_last_module_that_has_a_width_decides(plain):
    assert embedding_width(plain.children()) == 16
    assert embedding_width([*plain.children(), Dense(16, 12), Truncation()]) == 12
    assert embedding_width([*plain.children(), Truncation(6)]) == 6


def test_a_default_truncate_dim_does_not_count(plain):
    plain.truncate_dim = 4
    assert plain.get_embedding_dimension() == 4
    assert embedding_width(plain.children()) == 16


def test_modules_that_all_keep_silent_are_refused_by_name():
    with pytest.raises(UnsupportedModelError, match="must say how wide its embeddings are, .* got Tanh, Truncation"):
        embedding_width([torch.nn.Tanh(), Truncation()])
