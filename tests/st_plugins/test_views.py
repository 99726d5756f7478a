import copy
from concurrent.futures import ThreadPoolExecutor
from types import MethodType

import pytest
import torch
from transformers import AutoModel, BertConfig, BertModel, T5EncoderModel

import families
from st_plugins.blocks import find_blocks, follow
from st_plugins.errors import SizeError, UnsupportedModelError
from st_plugins.views import (
    check_views,
    cut_config,
    independent_view,
    normed_layers,
    recording_view,
    shallow_copy,
    view,
)

FAMILIES = families.available()
LISTED = [name for name in FAMILIES if name != "albert"]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_view_computes_the_hidden_state_of_its_layer(name):
    model = families.build(name)
    stack = find_blocks(model)
    states = families.run(model, output_hidden_states=True).hidden_states
    norm = getattr(follow(model, stack.path[:-1]), stack.norm) if stack.norm else torch.nn.Identity()
    for layer in (1, 2, 3):
        expected = norm(states[layer])
        assert torch.allclose(families.run(view(model, layer))[0], expected, atol=1e-6), layer
    assert torch.equal(families.run(view(model, 4))[0], families.run(model)[0])


@pytest.mark.parametrize("name", FAMILIES)
def test_a_view_leaves_the_model_as_it_was(name):
    model = families.build(name)
    before = families.run(model)[0]
    config = model.config.to_dict()
    families.run(view(model, 1))
    assert model.config.to_dict() == config
    assert torch.equal(families.run(model)[0], before)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_view_shares_every_parameter(name):
    model = families.build(name)
    own = {parameter.data_ptr() for parameter in model.parameters()}
    shared = list(view(model, 2).parameters())
    assert shared
    assert all(parameter.data_ptr() in own for parameter in shared)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_saved_view_is_exactly_what_it_computes(name, tmp_path):
    shallow = view(families.build(name), 2)
    shallow.save_pretrained(tmp_path)
    loader = T5EncoderModel if name == "t5" else AutoModel
    again, report = loader.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert again.config.num_hidden_layers == 2
    assert torch.equal(families.run(again.eval())[0], families.run(shallow)[0])


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("layer", [2, 4])
def test_an_independent_view_shares_nothing_and_agrees_about_its_configuration(name, layer):
    model = families.build(name)
    kept = independent_view(model, layer)
    assert torch.equal(families.run(kept)[0], families.run(view(model, layer))[0])
    assert not {p.data_ptr() for p in kept.parameters()} & {p.data_ptr() for p in model.parameters()}
    assert kept.config.num_hidden_layers == layer
    for path, module in kept.named_modules():
        if hasattr(module, "config"):
            original = model.get_submodule(path).config
            assert module.config is not original
            assert (module.config is kept.config) == (original is model.config)


@pytest.mark.parametrize("name", LISTED)
def test_recording_keeps_every_layer_as_views_compute_it(name):
    model = families.build(name)
    recording, states = recording_view(model)
    last = families.run(recording)[0]
    layers = normed_layers(model, states)
    assert len(layers) == 4
    for layer in (1, 2, 3):
        assert torch.equal(layers[layer - 1], families.run(view(model, layer))[0]), layer
    assert torch.allclose(layers[3], last, atol=1e-6)


@pytest.mark.parametrize("name", LISTED)
def test_recorded_layers_carry_gradients(name):
    model = families.build(name)
    recording, states = recording_view(model)
    ids, mask = families.batch()
    recording(input_ids=ids, attention_mask=mask)
    normed_layers(model, states)[0].sum().backward()
    blocks = follow(model, find_blocks(model).path)
    assert all(p.grad is None for p in blocks[1].parameters())
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in blocks[0].parameters())


def test_recording_survives_gradient_checkpointing():
    model = families.build("bert").train()
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
            enable({"use_reentrant": False})
        model.zero_grad()
        torch.manual_seed(3)
        recording, states = recording_view(model)
        ids, mask = families.batch()
        recording(input_ids=ids, attention_mask=mask)
        normed_layers(model, states)[1].square().sum().backward()
        gradients.append(model.encoder.layer[0].output.dense.weight.grad.clone())
    assert torch.allclose(*gradients, rtol=1e-4)
    assert gradients[0].abs().sum() > 0


def test_recorders_answer_for_their_blocks():
    model = families.build("bert")
    recording, _ = recording_view(model)
    assert recording.encoder.layer[2].attention is model.encoder.layer[2].attention
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = recording.encoder.layer[0].no_such_name


def test_padding_does_not_change_a_view():
    model = view(families.build("qwen3"), 2)
    ids, _ = families.batch()
    alone = model(input_ids=ids[:1, :7]).last_hidden_state
    padded = model(input_ids=ids[:1], attention_mask=torch.tensor([[1] * 7 + [0] * 5])).last_hidden_state
    assert torch.allclose(alone, padded[:, :7], atol=1e-6)


def test_views_of_many_layers_run_at_once():
    model = families.build("bert")
    expected = {layer: families.run(view(model, layer))[0] for layer in (1, 2, 3, 4)}
    layers = [1, 2, 3, 4] * 25
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda layer: families.run(view(model, layer))[0], layers))
    assert all(torch.equal(result, expected[layer]) for layer, result in zip(layers, results, strict=True))


def test_hidden_states_of_a_model_are_right_after_its_view_was_asked_for_them():
    model = families.build("bert")
    assert len(families.run(view(model, 2), output_hidden_states=True).hidden_states) == 3
    assert len(families.run(model, output_hidden_states=True).hidden_states) == 5


def test_a_view_of_a_view():
    model = families.build("llama")
    assert torch.equal(families.run(view(view(model, 3), 2))[0], families.run(view(model, 2))[0])


def test_weights_loaded_later_are_seen_by_an_older_view():
    model = families.build("bert")
    shallow = view(model, 2)
    with torch.no_grad():
        model.encoder.layer[0].output.dense.weight.mul_(2)
    assert torch.equal(families.run(shallow)[0], families.run(view(model, 2))[0])


def test_a_missing_layer_is_refused():
    with pytest.raises(SizeError, match="layer must be an integer from 1 to 4 .* got 9"):
        view(families.build("bert"), 9)


def test_shared_blocks_cannot_be_recorded():
    with pytest.raises(UnsupportedModelError, match="AlbertModel applies one block 4 times"):
        recording_view(families.build("albert"))


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_passes_its_own_check(name):
    model = families.build(name).train()
    model.get_input_embeddings().eval()
    modes = [module.training for module in model.modules()]
    check_views(model, torch.tensor([[5, 6, 7]]))
    assert [module.training for module in model.modules()] == modes


def test_something_unknown_behind_the_blocks_is_refused():
    class Scaled(BertModel):
        def forward(self, *args, **kwargs):
            output = super().forward(*args, **kwargs)
            output["last_hidden_state"] = output["last_hidden_state"] * 2
            return output

    model = Scaled(BertConfig(**families.CONFIGS["bert"])).eval()
    with pytest.raises(
        UnsupportedModelError, match="Scaled does not compute its first layer as its blocks followed by no"
    ):
        check_views(model, torch.tensor([[5, 6, 7]]))


def test_a_cut_configuration_is_a_copy():
    config = families.build("gemma3_text").config
    types = list(config.layer_types)
    cut = cut_config(config, 2)
    assert (cut.num_hidden_layers, cut.layer_types) == (2, types[:2])
    assert (config.num_hidden_layers, config.layer_types) == (4, types)


def test_a_shallow_copy_replaces_children_and_shares_the_rest():
    original = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    clone = shallow_copy(original, **{"1": torch.nn.Identity()})
    assert clone[0] is original[0]
    assert isinstance(original[1], torch.nn.Linear)
    assert copy.deepcopy(clone)[0] is not original[0]


def test_a_shallow_copy_runs_its_own_children_where_an_earlier_training_left_a_bound_forward():
    """MatryoshkaLoss leaves ``model.forward = model.forward``, accelerate a bound function that calls it."""
    original = torch.nn.Sequential(torch.nn.Identity())
    x = torch.tensor([-1.0, 2.0])
    original.forward = original.forward
    assert torch.equal(shallow_copy(original, **{"0": torch.nn.ReLU()})(x), x.relu())
    original.forward = MethodType(lambda self, given: torch.nn.Sequential.forward(self, given) + 1, original)
    assert torch.equal(shallow_copy(original, **{"0": torch.nn.ReLU()})(x), x.relu() + 1)
    assert torch.equal(original(x), x + 1)
