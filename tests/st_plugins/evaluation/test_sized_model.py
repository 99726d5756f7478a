import numpy as np
import torch

from st_plugins.evaluation.sized_model import EncodingClock, at_size


def test_every_form_of_output_is_cut_to_unit_vectors(model, texts):
    sized = at_size(model, 2, 2, 4, EncodingClock())
    expected = model.encode(texts, layer=2, truncate_dim=4, allow_untrained=True)
    assert np.allclose(sized.encode(texts), expected, atol=1e-6)
    assert np.allclose(sized.encode(texts, convert_to_tensor=True), expected, atol=1e-6)
    rows = sized.encode(texts, convert_to_numpy=False)
    assert isinstance(rows, list)
    assert np.allclose(torch.stack(rows), expected, atol=1e-6)
    assert np.allclose(sized.encode(texts[0]), expected[0], atol=1e-6)


def test_queries_and_documents_run_at_their_own_layers(model, texts):
    sized = at_size(model, 1, 3, 16, EncodingClock())
    for method, layer in (("encode_query", 1), ("encode_document", 3), ("encode", 3)):
        expected = getattr(model, method)(texts, layer=layer, allow_untrained=True)
        assert np.allclose(getattr(sized, method)(texts), expected, atol=1e-6)


def test_it_is_a_model_with_the_same_weights(model):
    sized = at_size(model, 1, 1, 4, EncodingClock())
    assert isinstance(sized, type(model))
    assert sized[0] is model[0]
    assert sized.similarity_fn_name == model.similarity_fn_name


def test_the_clock_counts_queries_apart():
    clock = EncodingClock()
    clock.seconds = {(1, "query"): 1.0, (4, "query"): 2.0, (4, ""): 6.0}
    assert clock.cost(1, of_queries=True) == 0.5
    assert clock.cost(4, of_queries=False) == 1.0
    assert clock.cost(1, of_queries=False) == 0.125
    assert EncodingClock().cost(3, of_queries=True) == 1.0
