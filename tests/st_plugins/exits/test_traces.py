import pytest
import torch

import exit_cases
import st_plugins
from st_plugins.errors import InputError, UnsupportedModelError, UntrainedSizeError
from st_plugins.exit_criteria import Gate, Saturation
from st_plugins.exit_policies import ExitPolicy
from st_plugins.exits.traces import distinct, exit_layers, trace


@pytest.fixture
def trained(model):
    return exit_cases.train(model)


GATE = Gate((1, 2, 3), ((0.0, 0.0, 0.2, -0.1, 0.3), (0.5, 0.0, 0.2, -0.1, 0.1), (0.5, 0.1, 0.2, -0.1, 0.0)))


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_it_holds_what_encode_gives_at_each_layer(trained, batch_size):
    texts = exit_cases.texts(11)
    traced = trace(trained, texts, batch_size=batch_size)
    assert traced.layers == (1, 2, 3, 4)
    for index, layer in enumerate(traced.layers):
        expected = trained.encode(texts, layer=layer, convert_to_tensor=True)
        assert torch.allclose(traced.embeddings[index], expected, atol=1e-6)
    assert traced.lengths.tolist() == [len(text.split()) + 2 for text in texts]
    assert torch.allclose(torch.nn.functional.normalize(traced.pooled, dim=-1), traced.embeddings, atol=1e-6)


@pytest.mark.parametrize("criterion", [Saturation(), Saturation(2), GATE], ids=["saturation", "patience", "gate"])
@pytest.mark.parametrize("threshold", [-1.0, 0.1, 0.25, 0.4, 2.0])
def test_it_says_where_a_call_would_leave(trained, criterion, threshold):
    texts = exit_cases.texts(40)
    traced = trace(trained, texts)
    exits = traced.exits(traced.scores(criterion), threshold)
    policy = ExitPolicy("mine", criterion, threshold, traced.layers)
    trained[0].add_exit_policy(policy)
    with torch.no_grad():
        live = trained(trained.preprocess(texts), exit="mine")
    assert [traced.layers[index] for index in exits] == live["exit_layer"].tolist()


def test_prompts_are_those_of_encode(trained):
    texts = exit_cases.texts(5)
    trained.prompts = {"query": "the red ", "other": "a blue "}
    for options in ({}, {"prompt_name": "query"}, {"prompt": "the tree "}):
        expected = trained.encode(texts, convert_to_tensor=True, **options)
        assert torch.allclose(trace(trained, texts, **options).embeddings[-1], expected, atol=1e-6)
    trained.default_prompt_name = "other"
    expected = trained.encode(texts, convert_to_tensor=True)
    assert torch.allclose(trace(trained, texts).embeddings[-1], expected, atol=1e-6)
    with pytest.raises(InputError, match=r"a prompt of the model, \['other', 'query'\], got 'no'"):
        trace(trained, texts, prompt_name="no")


def test_the_default_dim_is_cut_to(trained):
    texts = exit_cases.texts(5)
    trained.truncate_dim = 8
    traced = trace(trained, texts)
    assert traced.embeddings.shape == (4, 5, 8)
    assert torch.allclose(traced.embeddings[1], trained.encode(texts, layer=2, convert_to_tensor=True), atol=1e-6)


def test_models_without_exits_are_refused(model, plain):
    with pytest.raises(UntrainedSizeError, match=r"trained at layers below 4.* say so: st_plugins.elastic"):
        exit_layers(model)
    with pytest.raises(
        UnsupportedModelError, match="model for exits must be elastic, got one that starts with Transformer"
    ):
        exit_layers(plain)
    assert exit_layers(st_plugins.elastic(plain, sizes=[(2, 8)])) == (2, 4)


def test_texts_count_once_and_must_be_texts():
    assert distinct(["b", "a", "b"]) == ["b", "a"]
    with pytest.raises(InputError, match="must be a list of texts, got one text"):
        distinct("a text")
    with pytest.raises(InputError, match="at least one text, got none"):
        distinct([])
    with pytest.raises(InputError, match="must be texts, got int at position 1"):
        distinct(["a", 3])
