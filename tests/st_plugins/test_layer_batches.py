import numpy as np
import pytest
import torch

from st_plugins.functional import by_layer
from st_plugins.layer_batches import layer_batches


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_every_text_comes_once_with_its_vector_at_each_layer(model, texts, batch_size):
    found = np.zeros((len(texts), 2, 16))
    seen = []
    with torch.no_grad():
        for places, inputs, outputs in layer_batches(model.eval(), texts, (1, 4), batch_size=batch_size):
            assert len(inputs["input_ids"]) == len(places) <= batch_size
            found[places] = by_layer(outputs["sentence_embedding"], (1, 4)).numpy()
            seen += places.tolist()
    assert sorted(seen) == list(range(len(texts)))
    assert [len(texts[place]) for place in seen] == sorted(map(len, texts), reverse=True)
    for index, layer in enumerate((1, 4)):
        assert np.allclose(found[:, index], model.encode(texts, layer=layer, allow_untrained=True), atol=1e-6)


def test_a_prompt_goes_before_every_text(model, texts):
    with torch.no_grad():
        for (_, one, _), (_, other, _) in zip(
            layer_batches(model.eval(), texts, (1,), prompt="the red "),
            layer_batches(model, [f"the red {text}" for text in texts], (1,)),
            strict=True,
        ):
            assert torch.equal(one["input_ids"], other["input_ids"])


def test_the_bar_counts_batches(model, texts, capsys):
    with torch.no_grad():
        list(layer_batches(model.eval(), texts, (1,), batch_size=2, show_progress=True))
    assert "3/3" in capsys.readouterr().err
