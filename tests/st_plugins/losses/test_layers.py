import pytest
import torch

from st_plugins.errors import LossError
from st_plugins.losses.layers import by_layer, elastic_transformer, unwrapped


def test_by_layer_undoes_the_stacking():
    stacked = torch.arange(12.0).reshape(6, 2)  # layers a, b of three texts
    columns = by_layer(stacked, (1, 4))
    assert columns.shape == (3, 2, 2)
    assert columns[1].tolist() == [[2.0, 3.0], [8.0, 9.0]]


def test_wrappers_are_looked_through(model):
    parallel = torch.nn.DataParallel(model)
    assert unwrapped(parallel) is model
    assert unwrapped(torch.compile(model, backend="eager")) is model
    assert unwrapped(torch.compile(parallel, backend="eager")) is model
    assert unwrapped(torch.nn.DataParallel(torch.compile(model, backend="eager"))) is model
    assert elastic_transformer(parallel) is model[0]


def test_a_plain_model_is_refused(plain):
    with pytest.raises(LossError, match="needs an elastic model, got one that starts with Transformer"):
        elastic_transformer(plain)
