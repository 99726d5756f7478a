import pytest
import torch

from st_plugins.modes import evaluating


def modes(model):
    return [module.training for module in model.modules()]


def test_every_module_is_back_in_its_own_mode_afterwards():
    model = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Sequential(torch.nn.Dropout()))
    model[1].eval()
    with evaluating(model):
        assert modes(model) == [False] * 4
    assert modes(model) == [True, True, False, False]


def test_an_error_changes_nothing_of_that():
    model = torch.nn.Dropout()
    with pytest.raises(ValueError, match="of the block"), evaluating(model):
        raise ValueError("of the block")
    assert model.training
