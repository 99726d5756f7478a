import pytest
import torch
from sentence_transformers.sentence_transformer.modules import Dense

from st_plugins.errors import SizeError, UnsupportedModelError
from st_plugins.modules import Truncation
from st_plugins.width import check_dim, embedding_width


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


@pytest.mark.parametrize("dim", [0, -1, 17, True, 8.0, "8"])
def test_a_dim_that_does_not_exist_is_refused(dim):
    check_dim(1, 16)
    check_dim(16, 16)
    with pytest.raises(SizeError, match=rf"dim must be an integer from 1 to 16 .the embedding dimension., got {dim!r}"):
        check_dim(dim, 16)
