import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModel, LlamaConfig, LlamaModel

import families
import reference
from decoder_cases import DECODERS, batch, change, states
from families import but_slow
from st_plugins.errors import UnsupportedModelError
from st_plugins.stages import StagedRun, check_stages
from st_plugins.unmasking import (
    CONFIG_UNMASKS,
    check_windows,
    is_unmasked,
    restore_attention,
    unmasked,
)
from st_plugins.views import check_views, independent_view, view

TINY = {"vocab_size": 99, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}


@pytest.fixture(params=but_slow(DECODERS, "llama", "gemma3_text"))
def family(request):
    return request.param


@pytest.mark.parametrize("row", [0, 1, 2], ids=["padded right", "padded left", "not padded"])
def test_every_token_of_a_text_sees_its_last_one(family, row):
    network = unmasked(families.build(family))
    ids, mask = batch()
    others = ids.clone()
    text = mask[row].bool()
    others[row, text.nonzero().max()] = 91
    assert (change(states(network, ids, mask), states(network, others, mask))[row, text] > 1e-6).all()


@pytest.mark.parametrize("with_mask", [True, False])
def test_every_token_sees_the_last_one_in_a_batch_without_padding(family, with_mask):
    network = unmasked(families.build(family))
    ids, _ = batch()
    others = ids.clone()
    others[:, -1] = 91
    mask = torch.ones_like(ids) if with_mask else None
    assert (change(states(network, ids, mask), states(network, others, mask)) > 1e-6).all()


def test_a_text_is_the_same_alone_and_padded_on_either_side(family):
    network = unmasked(families.build(family))
    ids, mask = batch()
    padded = states(network, ids, mask)
    others = torch.where(mask.bool(), ids, 91)
    for row in range(3):
        text = mask[row].bool()
        alone = states(network, ids[row, text][None])[0]
        assert change(padded[row, text], alone).max() <= 1e-5 * alone.abs().max()
        assert torch.equal(states(network, others, mask)[row, text], padded[row, text])


def test_of_one_layer_only_the_last_token_saw_everything_before(family):
    causal = families.build(family, layers=1)
    network = unmasked(causal)
    ids, _ = batch()
    difference = change(states(causal, ids), states(network, ids))
    assert (difference[:, -1] <= 1e-6).all()
    assert (difference[:, :-1] > 1e-5).all()


def test_it_is_the_causal_model_with_a_mask_that_hides_padding_only(family):
    causal = families.build(family)
    ids, mask = batch()
    additive = torch.zeros(3, 1, 8, 8)
    for row in range(3):
        for token in range(8):
            if not mask[row, token]:
                additive[row, 0, :, token] = -1e30
    expected = states(causal, ids, additive)
    found = states(unmasked(causal), ids, mask)
    assert change(found, expected)[mask.bool()].max() <= 1e-5 * expected.abs().max()
    assert change(found, states(causal, ids, mask))[mask.bool()].max() > 1e-2


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
def test_attention_by_loops(kernel):
    network = unmasked(LlamaModel(LlamaConfig(**TINY, attn_implementation=kernel)).eval())
    ids, mask = batch()
    attention, seen = network.layers[0].self_attn, {}
    for name in ("q_proj", "k_proj", "v_proj"):
        getattr(attention, name).register_forward_hook(lambda _, __, output, name=name: seen.update({name: output}))
    attention.o_proj.register_forward_pre_hook(lambda _, inputs: seen.update(out=inputs[0]))
    with torch.no_grad():  # at position 0 rotary embeddings turn nothing
        network(input_ids=ids, attention_mask=mask, position_ids=torch.zeros_like(ids))
    for row in range(3):
        for head in range(4):
            own = [seen[name][row, :, 8 * head : 8 * head + 8].tolist() for name in ("q_proj", "k_proj", "v_proj")]
            expected = reference.full_attention(*own, mask[row].bool().tolist())
            assert torch.allclose(seen["out"][row, :, 8 * head : 8 * head + 8], torch.tensor(expected), atol=1e-6)


def test_the_given_model_stays_causal_and_as_it_is(family):
    causal = families.build(family)
    ids, mask = batch()
    before, config, random = states(causal, ids, mask), causal.config.to_dict(), torch.get_rng_state()
    network = unmasked(causal.train())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(module.training for module in [*causal.modules(), *network.modules()])
    assert causal.config.to_dict() == config
    assert torch.equal(states(causal.eval(), ids, mask), before)
    assert (type(causal) is type(network)) == CONFIG_UNMASKS
    assert network.training  # it has modules of its own
    assert network.config.use_cache is False


def test_dropout_does_not_look_like_a_later_token():
    causal = LlamaModel(LlamaConfig(**TINY, attention_dropout=0.5)).train()
    assert is_unmasked(unmasked(causal))


def test_weights_are_shared_and_stay_so(family):
    causal = families.build(family)
    network = unmasked(causal)
    pairs = list(zip(causal.parameters(), network.parameters(), strict=True))
    assert pairs
    assert all(mine is theirs for mine, theirs in pairs)
    causal.double()
    assert {p.dtype for p in network.parameters()} == {torch.float64}
    assert {b.dtype for b in network.buffers()} == {b.dtype for b in causal.buffers()}
    assert states(network, batch()[0]).dtype == torch.float64


def test_the_first_token_has_a_gradient_for_the_last(family):
    causal = families.build(family)
    for network, is_seen in ((causal, False), (unmasked(causal), True)):
        embedded = network.get_input_embeddings()(batch()[0]).detach().requires_grad_()
        network.train()(inputs_embeds=embedded, attention_mask=batch()[1])[0][2, 0].sum().backward()
        assert bool(embedded.grad[2, -1].abs().max() > 1e-6) == is_seen
        assert embedded.grad[2, 0].abs().max() > 1e-6


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated")
def test_gradient_checkpointing_gives_the_same_gradients(family):
    network = unmasked(families.build(family)).train()
    ids, mask = batch()

    def gradient():
        network.zero_grad()
        network(input_ids=ids, attention_mask=mask)[0][:, 3].sum().backward()
        return network.get_input_embeddings().weight.grad.clone()

    expected = gradient()
    network.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    assert torch.allclose(gradient(), expected, atol=1e-5)


def test_causal_and_unmasked_run_side_by_side(family):
    causal = families.build(family)
    networks = [causal, unmasked(causal)] * 8
    ids, mask = batch()
    expected = [states(network, ids, mask) for network in networks]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda network: states(network, ids, mask), networks))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda network: pickle.loads(pickle.dumps(network))])
def test_copies_stay_unmasked(copied):
    network = unmasked(families.build("qwen3"))
    again = copied(network)
    assert type(again) is type(network)
    assert torch.equal(states(again, *batch()), states(network, *batch()))
    assert again.norm.weight is not network.norm.weight


def test_views_and_stages_of_it_are_unmasked_too(family):
    network = unmasked(families.build(family))
    ids, mask = batch()
    check_views(network, ids[:1])
    check_stages(network, ids[:1])
    others = ids.clone()
    others[2, -1] = 91
    for cut in (view(network, 2), independent_view(network, 2)):
        assert is_unmasked(cut)
        assert (change(states(cut, ids, mask), states(cut, others, mask))[2] > 1e-6).all()
    with torch.no_grad():
        run = StagedRun(network, {"input_ids": ids, "attention_mask": mask})
        found, _ = run.to(4)
    assert change(found, states(network, ids, mask))[mask.bool()].max() <= 1e-5 * found.abs().max()


def test_all_layers_can_still_be_asked_for(family):
    network = unmasked(families.build(family))
    for _ in range(2):
        layers = network(input_ids=batch()[0], output_hidden_states=True).hidden_states
        assert len(layers) == 5


@pytest.mark.parametrize(
    "family", but_slow([name for name in DECODERS if name != "gemma2"], "llama", "gemma3_text")
)  # which takes eager only
def test_its_attention_can_be_changed_and_the_given_models_is_not(family):
    causal = families.build(family)
    network = unmasked(causal)
    expected = states(network, *batch())
    assert causal.config._attn_implementation == "sdpa"
    network.set_attn_implementation("eager")
    assert causal.layers[0].self_attn.config._attn_implementation == "sdpa"
    assert network.layers[0].self_attn.config is network.config
    assert change(states(network, *batch()), expected)[batch()[1].bool()].max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_in_any_precision(dtype, family):
    causal = families.build(family).to(dtype)
    with pytest.raises(UnsupportedModelError, match="see later ones already"):
        unmasked(_relabelled(unmasked(causal)))
    assert states(unmasked(causal), *batch()).dtype == dtype


def _relabelled(network):
    """As if the configuration did not say what the model does."""
    network.config = copy.copy(network.config)
    forward = type(network).forward

    class Silent(type(network)):
        def forward(self, **inputs):
            return forward(self, **inputs, **({"is_causal": False} if CONFIG_UNMASKS else {}))

    network.config.is_causal = True
    network.__class__ = Silent
    return network


def test_saved_and_loaded(family, tmp_path):
    causal = families.build(family)
    network = unmasked(causal)
    network.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path).eval()
    assert is_unmasked(again)
    assert again.config.architectures == [type(causal).__name__]
    module = SimpleNamespace(model=again, max_seq_length=8)
    restore_attention(module)
    assert torch.equal(states(module.model, *batch()), states(network, *batch()))
    assert (module.model is again) == CONFIG_UNMASKS


def test_what_is_unmasked_already_is_returned():
    network = unmasked(families.build("llama"))
    assert unmasked(network) is network


def test_a_causal_module_is_left_as_it_is():
    causal = families.build("mistral")
    module = SimpleNamespace(model=causal, max_seq_length=99999)
    restore_attention(module)
    check_windows(module)
    assert module.model is causal


def test_restoring_looks_at_the_windows():
    network = unmasked(families.build("mistral"))
    network.config.sliding_window = 8
    restore_attention(SimpleNamespace(model=network, max_seq_length=8))
    with pytest.raises(UnsupportedModelError, match="max_seq_length must be at most 8, got 9: layers of MistralModel"):
        restore_attention(SimpleNamespace(model=network, max_seq_length=9))


@pytest.mark.parametrize("name", ["max_seq_length", "query_length", "document_length"])
def test_texts_longer_than_a_window_are_refused(name):
    module = SimpleNamespace(model=unmasked(families.build("gemma2")), max_seq_length=8)
    check_windows(module)
    setattr(module, name, 9)
    message = rf"{name} must be at most 8, got 9: layers of Gemma2Model see a window of 8 tokens.*\.{name} = 8, or pass"
    with pytest.raises(UnsupportedModelError, match=message):
        check_windows(module)


def test_families_whose_layers_have_no_window_take_any_length():
    network = unmasked(families.build("qwen2"))
    network.config.sliding_window = 4  # no layer is of the type that reads it
    check_windows(SimpleNamespace(model=network, max_seq_length=64))
    network.config.layer_types = None  # as Mistral, where every layer has the window
    with pytest.raises(UnsupportedModelError, match="must be at most 4, got 64"):
        check_windows(SimpleNamespace(model=network, max_seq_length=64))
