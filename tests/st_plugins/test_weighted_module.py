from typing import ClassVar

import pytest
import torch
from safetensors.torch import load_file

from st_plugins.weighted_module import WeightedModule


class Scale(WeightedModule):
    config_keys: ClassVar[list[str]] = ["embedding_dimension"]

    def __init__(self, embedding_dimension):
        super().__init__()
        self.embedding_dimension = embedding_dimension
        self.factors = torch.nn.Parameter(torch.zeros(embedding_dimension))

    def forward(self, features):
        return features


def test_configuration_and_weights_come_back(tmp_path):
    module = Scale(3)
    with torch.no_grad():
        module.factors.copy_(torch.tensor([1.0, 2.0, 3.0]))
    module.save(str(tmp_path))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    assert load_file(tmp_path / "model.safetensors")["factors"].tolist() == [1, 2, 3]
    loaded = Scale.load(str(tmp_path))
    assert isinstance(loaded, Scale)
    assert loaded.get_embedding_dimension() == 3
    assert torch.equal(loaded.factors, module.factors)


def test_weights_of_another_width_are_refused(tmp_path):
    Scale(3).save(str(tmp_path))
    (tmp_path / "config.json").write_text('{"embedding_dimension": 2}')
    with pytest.raises(RuntimeError, match="size mismatch for factors"):
        Scale.load(str(tmp_path))
