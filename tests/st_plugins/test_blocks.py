import gc
import weakref

import pytest
import torch
from transformers import AlbertConfig, AlbertModel, BertConfig, BertModel, T5Config, T5Model

import families
from st_plugins.blocks import BlockStack, check_layer, find_blocks, follow, own_blocks
from st_plugins.errors import SizeError, UnsupportedModelError


@pytest.mark.parametrize("name", families.available())
def test_the_one_stack_of_every_family_is_found(name):
    model = families.build(name)
    stack = find_blocks(model)
    assert stack.depth == 4
    assert stack.is_shared == (name == "albert")
    assert (stack.norm is not None) == (name in families.PRE_NORM)
    if stack.is_shared:
        with pytest.raises(UnsupportedModelError, match="AlbertModel applies one block 4 times, so it rains. Wait."):
            own_blocks(model, "it rains. Wait.")
    else:
        assert own_blocks(model, "") == list(follow(model, stack.path))
        assert len(own_blocks(model, "")) == 4


def test_a_list_inside_a_block_is_not_a_second_stack():
    # The blocks of T5 are lists of two parts, so with two layers every list is as long as the stack.
    assert find_blocks(families.build("t5", layers=2)).path == ("encoder", "block")


def test_bert_by_hand():
    model = BertModel(BertConfig(**families.CONFIGS["bert"]))
    assert find_blocks(model) == BlockStack(("encoder", "layer"), 4, None)


def test_an_encoder_decoder_is_refused_by_name():
    model = T5Model(T5Config(**families.CONFIGS["t5"]))
    with pytest.raises(
        UnsupportedModelError, match=r"T5Model must have exactly one list of 4 .*decoder.block, encoder.bl"
    ):
        find_blocks(model)


def test_a_model_without_blocks_is_refused_by_name():
    model = families.build("bert")
    model.config.num_hidden_layers = 9
    with pytest.raises(UnsupportedModelError, match="BertModel must have exactly one list of 9 .*found: none"):
        find_blocks(model)


def test_something_else_is_refused_by_name():
    with pytest.raises(UnsupportedModelError, match="Linear must have a configuration with num_hidden_layers"):
        find_blocks(torch.nn.Linear(2, 2))


def test_two_lists_of_one_length_are_told_apart_by_the_recorded_class():
    model = families.build("bert")
    model.extra = torch.nn.ModuleList(torch.nn.Linear(2, 2) for _ in range(4))
    assert find_blocks(model).path == ("encoder", "layer")


def test_the_modules_are_walked_once(monkeypatch):
    model = families.build("bert")
    found = find_blocks(model)
    monkeypatch.setattr(type(model), "named_modules", None)
    assert find_blocks(model) is found
    with pytest.raises(TypeError):
        find_blocks(families.build("bert"))


def test_blocks_that_were_replaced_are_found_again():
    model = families.build("bert")
    find_blocks(model)
    model.other, model.encoder.layer = model.encoder.layer, torch.nn.Identity()
    assert find_blocks(model).path == ("other",)
    model.encoder.layer = model.other[:3]
    model.config.num_hidden_layers = 3
    assert find_blocks(model) == BlockStack(("encoder", "layer"), 3, None)
    del model.encoder.layer
    with pytest.raises(UnsupportedModelError, match="found: none"):
        find_blocks(model)


def test_what_was_found_keeps_no_model_alive():
    model = families.build("bert")
    find_blocks(model)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_albert_with_several_groups_is_refused():
    model = AlbertModel(AlbertConfig(**{**families.CONFIGS["albert"], "num_hidden_groups": 2}))
    with pytest.raises(UnsupportedModelError, match="AlbertModel must have num_hidden_groups=1, got 2"):
        find_blocks(model)


@pytest.mark.parametrize("layer", [0, -1, 5, 2.0, True, "2", None])
def test_a_layer_that_does_not_exist_is_refused(layer):
    with pytest.raises(SizeError, match=r"layer must be an integer from 1 to 4 .* got"):
        check_layer(layer, 4)
