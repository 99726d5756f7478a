import copy

import pytest
import torch

import families
from families import but_slow
from st_plugins.block_inputs import changing_view, decoding_view
from st_plugins.blocks import find_blocks, follow
from st_plugins.errors import UnsupportedModelError
from st_plugins.views import view

FAMILIES = families.available()
LISTED = [name for name in FAMILIES if name != "albert"]


def inputs_of_blocks(network, blocks):
    """What the network gives to these blocks in one pass, and what it returns."""
    given = []
    hooks = [block.register_forward_pre_hook(lambda _, args: given.append(args[0])) for block in blocks]
    output = families.run(network)[0]
    for hook in hooks:
        hook.remove()
    return given, output


@pytest.mark.parametrize("name", but_slow(LISTED, "bert", "deberta-v2", "modernbert", "t5", "gemma3_text"))
def test_only_what_the_block_reads_is_changed(name):
    model = families.build(name)
    blocks = list(follow(model, find_blocks(model).path))
    natural, expected = inputs_of_blocks(model, blocks)
    same, output = inputs_of_blocks(changing_view(model, 2, lambda states: states), blocks)
    assert torch.equal(output, expected)
    assert all(torch.equal(*pair) for pair in zip(same, natural, strict=True))
    given, output = inputs_of_blocks(changing_view(model, 2, lambda states: 2 * states), blocks)
    assert torch.equal(given[1], natural[1])
    assert torch.equal(given[2], 2 * natural[2])
    assert not torch.allclose(given[3], natural[3], atol=1e-3)
    assert inputs_of_blocks(model, blocks)[1].equal(expected)


def test_a_view_may_end_behind_the_block():
    model = families.build("gemma2")
    short = changing_view(model, 1, lambda states: states, depth=2)
    assert short.config.num_hidden_layers == 2
    assert torch.equal(families.run(short)[0], families.run(view(model, 2))[0])


def test_one_block_for_every_layer_is_refused():
    with pytest.raises(UnsupportedModelError, match="AlbertModel applies one block 4 times, so the input of one layer"):
        changing_view(families.build("albert"), 1, lambda states: states)


@pytest.mark.parametrize("name", but_slow(LISTED, "bert", "deberta-v2", "modernbert", "t5", "gemma3_text"))
def test_a_decoding_view_is_the_first_layer_with_another_beginning(name):
    model = families.build(name)
    block = copy.deepcopy(follow(model, find_blocks(model).path)[0])
    _, mask = families.batch()
    rows, first = torch.arange(3), torch.tensor([0, 3, 0])  # the second text is padded on the left
    start = torch.randn(3, 32)
    [natural], expected = inputs_of_blocks(view(model, 1), [follow(model, find_blocks(model).path)[0]])
    same = decoding_view(model, block, natural[rows, first], mask)
    assert torch.equal(families.run(same)[0], expected)
    assert same.config.num_hidden_layers == 1
    [given], output = inputs_of_blocks(decoding_view(model, block, start, mask), [block])
    assert torch.equal(given[rows, first], start)
    untouched = torch.ones(3, 12, dtype=torch.bool)
    untouched[rows, first] = False
    assert torch.equal(given[untouched], natural[untouched])
    assert not torch.allclose(output[mask == 1], expected[mask == 1], atol=1e-3)


def test_a_decoding_view_trains_its_block_and_its_beginning_and_leaves_the_model_as_it_was():
    model = families.build("modernbert")
    before, state = model.config.to_dict(), {name: value.clone() for name, value in model.state_dict().items()}
    block = copy.deepcopy(model.layers[0])
    start = torch.randn(3, 32, dtype=torch.float64, requires_grad=True)  # another precision is taken too
    ids, mask = families.batch()
    decoded = decoding_view(model, block, start, mask)(input_ids=ids, attention_mask=mask)[0]
    decoded[:, -1].square().sum().backward()
    assert start.grad[2].abs().sum() > 0
    assert all(parameter.grad is not None for parameter in block.parameters())
    assert all(parameter.grad is None for parameter in model.layers.parameters())
    assert model.final_norm.weight.grad is not None
    assert model.config.to_dict() == before
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
