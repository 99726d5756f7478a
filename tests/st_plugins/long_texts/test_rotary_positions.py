import copy

import pytest
import torch

import families
from families import but_slow
from st_plugins.errors import UnsupportedModelError
from st_plugins.long_texts import rotary_positions
from st_plugins.long_texts.rotary_positions import check_rotary, ntk_base, scale_rotary

pytestmark = pytest.mark.skipif(
    not hasattr(families.AutoConfig.for_model("llama"), "rope_parameters"),
    reason="transformers 4 has no rope_parameters",
)
ROTARY = set(families.available()) - {
    *("bert", "roberta", "xlm-roberta", "mpnet", "distilbert", "electra", "deberta-v2", "albert", "t5")
}


def test_the_papers_bases():
    assert [ntk_base(factor) for factor in (1, 2, 3, 4, 6, 8, 16)] == [1, 3, 4, 5, 7.5, 10, 20]


@pytest.mark.parametrize("name", but_slow(sorted(ROTARY), "llama", "modernbert"))
def test_every_family_computes_what_its_configuration_says(name):
    network = families.build(name)
    ids, _ = families.batch()
    check_rotary(network)
    for factor, method in ((4, "interpolate"), (2.5, "ntk")):
        scaled = copy.deepcopy(network)
        scale_rotary(scaled, factor, method)  # it looks at the frequencies itself
        if "full_attention" in (getattr(network.config, "layer_types", None) or ["full_attention"]):
            assert not torch.allclose(scaled(input_ids=ids)[0], network(input_ids=ids)[0], atol=1e-6)
        again = type(network)._from_config(scaled.config)
        again.load_state_dict(scaled.state_dict())
        torch.testing.assert_close(again.eval()(input_ids=ids)[0], scaled(input_ids=ids)[0])


def test_frequencies_by_hand():
    network = families.build("llama")
    old, width = network.rotary_emb.inv_freq.clone(), 8
    linear, ntk = copy.deepcopy(network), copy.deepcopy(network)
    scale_rotary(linear, 4, "interpolate")
    torch.testing.assert_close(linear.rotary_emb.inv_freq, old / 4)
    scale_rotary(ntk, 4, "ntk")
    assert ntk.rotary_emb.inv_freq[0] == old[0] == 1
    torch.testing.assert_close(ntk.rotary_emb.inv_freq[-1], old[-1] / 5 ** ((width - 2) / width))


def test_frequencies_that_were_rounded_are_computed_anew():
    network = families.build("llama")
    exact = network.rotary_emb.inv_freq.clone()
    network.half()  # buffers too
    scale_rotary(network, 4, "interpolate")
    torch.testing.assert_close(network.rotary_emb.inv_freq, exact / 4)


def test_layers_with_a_window_keep_their_frequencies():
    network = families.build("modernbert")
    old = network.rotary_emb.sliding_attention_inv_freq.clone()
    scale_rotary(network, 4, "interpolate")
    assert torch.equal(network.rotary_emb.sliding_attention_inv_freq, old)
    assert network.config.rope_parameters["full_attention"]["rope_type"] == "linear"


def test_a_network_that_goes_its_own_way_is_refused(monkeypatch):
    network = families.build("llama")
    monkeypatch.setattr(
        rotary_positions, "ntk_base", lambda factor: 1.0 + network.config.rope_parameters["rope_theta"] % 7
    )
    monkeypatch.setattr(
        type(network.rotary_emb), "compute_default_rope_parameters", lambda *a, **k: (torch.ones(4), 1.0)
    )
    with pytest.raises(
        UnsupportedModelError, match="LlamaModel does not compute its rotary frequencies as its configur"
    ):
        scale_rotary(network, 2, "ntk")


def test_positions_of_another_kind_are_refused():
    with pytest.raises(
        UnsupportedModelError, match="as transformers 5 does; got T5EncoderModel. Other kinds know no len"
    ):
        check_rotary(families.build("t5"))
