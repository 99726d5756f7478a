import copy

import pytest
import torch

import families
from families import but_slow
from st_plugins.stages import StagedRun, check_stages
from st_plugins.views import normed_layers, recording_view, view
from stage_cases import LENGTHS, close, inputs, leave, row_of, tokens

FAMILIES = families.available()
# Positions of every kind, and a decoder whose blocks differ in their masks.
KINDS = ("bert", "deberta-v2", "modernbert", "t5", "gemma3_text")
# Who is left after layers 1, 2 and 3.
LEFT = {1: [0, 2, 3, 5], 2: [0, 2, 5], 3: [2, 5]}


def with_attention(model, implementation):
    other = type(model)._from_config(copy.deepcopy(model.config), attn_implementation=implementation)
    other.load_state_dict(model.state_dict())
    return other.eval()


@torch.no_grad()
@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("side", ["right", "left", "mixed"])
def test_with_nobody_leaving_it_is_the_plain_forward_pass(name, side):
    model = families.build(name)
    batch = inputs(LENGTHS, side)
    run = StagedRun(model, batch)
    for layer in (1, 2, 3, 4):
        states, mask = run.to(layer)
        assert close(states, view(model, layer)(**batch)[0]), layer
        assert torch.equal(mask, batch["attention_mask"])
    assert close(states, model(**batch)[0])
    assert close(StagedRun(model, batch).to(4)[0], states)


@torch.no_grad()
@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("side", ["right", "left", "mixed"])
def test_a_row_computes_the_same_whoever_leaves(name, side):
    model = families.build(name)
    batch = inputs(LENGTHS, side)
    full = model(**batch)[0]
    run = StagedRun(model, batch)
    for layer, left in LEFT.items():
        run.to(layer)
        leave(run, left)
        assert run.rows.tolist() == left
        states, mask = run.to(layer)
        for place, row in enumerate(left):
            alone = row_of(batch, row)
            expected = view(model, layer)(**alone)[0]
            assert close(tokens(states[place], mask[place]), tokens(expected, alone["attention_mask"])), (layer, row)
    states, mask = run.to(4)
    for place, row in enumerate(run.rows.tolist()):
        alone = row_of(batch, row)
        found = tokens(states[place], mask[place])
        assert torch.equal(mask[place].sum(), alone["attention_mask"].sum())
        assert close(found, tokens(model(**alone)[0], alone["attention_mask"])), row
        assert close(found, tokens(full[row], alone["attention_mask"][0])), row


@torch.no_grad()
@pytest.mark.parametrize("name", but_slow(FAMILIES, *KINDS))
def test_a_row_computes_what_it_does_without_padding(name):
    model = families.build(name)
    batch = inputs(LENGTHS, "right")
    run = StagedRun(model, batch)
    for layer, left in LEFT.items():
        run.to(layer)
        leave(run, left)
    states, mask = run.to(4)
    for place, row in enumerate(run.rows.tolist()):
        ids = batch["input_ids"][row : row + 1, : LENGTHS[row]]
        assert close(tokens(states[place], mask[place]), model(input_ids=ids)[0][0]), row


@torch.no_grad()
@pytest.mark.parametrize("name", but_slow(FAMILIES, *KINDS))
@pytest.mark.parametrize("batch_size", [1, 2, 4, 64])
def test_any_batch_size(name, batch_size):
    # 4 is also the number of heads and of layers, 12 rows of 12 tokens would be square.
    model = families.build(name)
    batch = inputs(([12, 7, 5, 9] * 16)[:batch_size], "mixed")
    full = model(**batch)[0]
    run = StagedRun(model, batch)
    assert close(run.to(4)[0], full)
    run = StagedRun(model, batch)
    run.to(2)
    run.keep(torch.arange(batch_size) % 2 == 0)
    states, mask = run.to(4)
    for place, row in enumerate(run.rows.tolist()):
        assert close(tokens(states[place], mask[place]), tokens(full[row], batch["attention_mask"][row])), row


@torch.no_grad()
@pytest.mark.parametrize("name", but_slow(FAMILIES, *KINDS))
@pytest.mark.parametrize("side", ["right", "left"])
def test_half_precision(name, side):
    model = families.build(name).to(torch.bfloat16)
    batch = inputs(LENGTHS, side)
    full = model(**batch)[0]
    run = StagedRun(model, batch)
    assert torch.equal(run.to(4)[0], full)
    run = StagedRun(model, batch)
    run.to(1)
    leave(run, [2, 5])
    states, mask = run.to(4)
    assert states.dtype == torch.bfloat16
    found, expected = tokens(states, mask).float(), tokens(full[[2, 5]], batch["attention_mask"][[2, 5]]).float()
    # A unit in the last place of bfloat16 is 2 ** -8; four blocks round differently for other widths.
    assert float((found - expected).norm() / expected.norm()) < 2**-6


@torch.no_grad()
@pytest.mark.parametrize("name", but_slow(FAMILIES, *KINDS))
def test_eager_attention(name):
    model = with_attention(families.build(name), "eager")
    batch = inputs(LENGTHS, "mixed")
    full = model(**batch)[0]
    run = StagedRun(model, batch)
    assert close(run.to(4)[0], full)
    run = StagedRun(model, batch)
    run.to(2)
    leave(run, [2, 5])
    states, mask = run.to(4)
    assert close(tokens(states, mask), tokens(full[[2, 5]], batch["attention_mask"][[2, 5]]))


@torch.no_grad()
@pytest.mark.parametrize("name", ["distilbert", "deberta-v2", "mpnet"])
def test_a_configuration_that_asks_for_attentions_changes_nothing(name):
    # DistilBERT of transformers 4 then returns them before the hidden states.
    model = with_attention(families.build(name), "eager")
    batch = inputs(LENGTHS, "right")
    expected = model(**batch)[0]
    model.config.output_attentions = True
    assert close(StagedRun(model, batch).to(4)[0], expected)
    assert model.config.output_attentions


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_passes_its_own_check(name):
    model = families.build(name).train()
    model.get_input_embeddings().eval()
    modes = [module.training for module in model.modules()]
    check_stages(model, torch.tensor([[5, 6, 7]]))
    check_stages(model.to(torch.bfloat16), torch.tensor([[5, 6, 7]]))
    assert [module.training for module in model.modules()] == modes


@torch.no_grad()
def test_layers_are_those_losses_train():
    model = families.build("qwen3")
    batch = inputs(LENGTHS, "right")
    recording, states = recording_view(model)
    recording(**batch)
    run = StagedRun(model, batch)
    for layer, expected in enumerate(normed_layers(model, states), 1):
        assert torch.equal(run.to(layer)[0], expected)


@torch.no_grad()
def test_a_real_model(minilm):
    model = minilm[0].model
    features = minilm.tokenizer(["A cat.", "Some dogs are running over the field."], padding=True, return_tensors="pt")
    full = model(**features)[0]
    run = StagedRun(model, {**features, "return_dict": True})
    assert close(run.to(3)[0], view(model, 3)(**features)[0])
    run.keep(torch.tensor([True, False]))
    states, mask = run.to(6)
    assert states.shape == (1, 5, 384)
    assert close(tokens(states, mask), tokens(full[:1], features["attention_mask"][:1]))
