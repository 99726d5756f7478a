import pytest
import torch
from transformers import LlamaConfig, LlamaModel

import families
from decoder_cases import DECODERS, batch, states
from st_plugins.errors import UnsupportedModelError
from st_plugins.unmasking import CONFIG_UNMASKS, is_unmasked, unmasked

TINY = {"vocab_size": 99, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}


@pytest.mark.parametrize("name", [name for name in families.available() if name not in DECODERS])
def test_encoders_are_refused(name):
    network = families.build(name)
    message = f"must be a decoder, .* the tokens of {type(network).__name__} see later ones already. Use it as it is"
    with pytest.raises(UnsupportedModelError, match=message):
        unmasked(network)


class Deaf(LlamaModel):
    """Stays causal, whatever it is told."""

    def forward(self, input_ids, attention_mask=None):
        return super().forward(input_ids, torch.full((len(input_ids), 1, 6, 6), -1e30).triu(1))


class Shortsighted(LlamaModel):
    """Causal where the batch is padded: what the flag of an attention layer alone does."""

    def forward(self, input_ids, attention_mask=None):
        is_padded = not bool(attention_mask.bool().all())
        mask = torch.full((len(input_ids), 1, 6, 6), -1e30).triu(1) if is_padded else torch.zeros(1, 1, 6, 6)
        return super().forward(input_ids, mask)


class Halfsighted(LlamaModel):
    """Causal for texts that are padded on one side, 0 left and 1 right."""

    side = 0

    def forward(self, input_ids, attention_mask=None):
        keys = attention_mask[:, 0, 0] if attention_mask.ndim == 4 else attention_mask
        is_padded = ~keys[:, -self.side].bool()
        causal = torch.full((6, 6), -1e30).triu(1) * is_padded[:, None, None]
        return super().forward(input_ids, causal[:, None] - 1e30 * (1 - keys.long())[:, None, None, :])


class OtherHalfsighted(Halfsighted):
    side = 1


class Longsighted(LlamaModel):
    """Causal where the batch is not padded."""

    def forward(self, input_ids, attention_mask=None):
        is_padded = not bool(attention_mask.bool().all())
        mask = torch.full((len(input_ids), 1, 6, 6), -1e30)
        if not is_padded:
            return super().forward(input_ids, mask.triu(1))
        keys = attention_mask[:, 0, 0] if attention_mask.ndim == 4 else attention_mask
        return super().forward(input_ids, mask * (1 - keys.long())[:, None, None, :])


class Blind(LlamaModel):
    """Takes padding on one side for text once it is un-masked, 0 left and 1 right."""

    side = 0

    def forward(self, input_ids, attention_mask=None):
        if not is_unmasked(self):
            return super().forward(input_ids, torch.full((len(input_ids), 1, 6, 6), -1e30).triu(1))
        keys = attention_mask[:, 0, 0] if attention_mask.ndim == 4 else attention_mask
        hidden = (1 - keys.long()) * keys[:, -self.side, None].bool()
        return super().forward(input_ids, -1e30 * hidden[:, None, None, :].expand(-1, -1, 6, -1))


class OtherBlind(Blind):
    side = 1


@pytest.mark.parametrize("kind", [Deaf, Shortsighted, Longsighted, Halfsighted, OtherHalfsighted])
def test_a_model_that_stays_causal_is_refused(kind):
    message = f"{kind.__name__} stays causal with is_causal=False: some first token does not see the last one .*0.0e"
    with pytest.raises(UnsupportedModelError, match=message):
        unmasked(kind(LlamaConfig(**TINY)).eval())


@pytest.mark.parametrize("kind", [Blind, OtherBlind])
def test_a_model_that_reads_its_padding_is_refused(kind):
    message = f"Padding must not change a text, but in {kind.__name__} without its causal mask it does"
    with pytest.raises(UnsupportedModelError, match=message):
        unmasked(kind(LlamaConfig(**TINY)).eval())


def test_layers_of_another_type_are_refused():
    network = families.build("qwen3")
    network.config.layer_types = ["full_attention", "linear_attention", "sliding_attention", "chunked_attention"]
    message = r"but Qwen3Model has \['chunked_attention', 'linear_attention'\], which would go on hiding tokens"
    with pytest.raises(UnsupportedModelError, match=message):
        unmasked(network)


def test_attention_that_needs_a_gpu_is_proved_by_another_and_kept():
    causal = families.build("llama")
    causal.config._attn_implementation = "flash_attention_2"
    if CONFIG_UNMASKS:
        assert unmasked(causal).config._attn_implementation == "flash_attention_2"
    else:
        message = "un-masked LlamaModel needs eager or sdpa attention, got 'flash_attention_2', which takes no mask"
        with pytest.raises(UnsupportedModelError, match=message):
            unmasked(causal)
    assert causal.config._attn_implementation == "flash_attention_2"


@pytest.mark.skipif(CONFIG_UNMASKS, reason="transformers 5 needs no mask of four dimensions")
def test_attention_without_such_masks_is_refused_in_the_call_too():
    network = unmasked(families.build("llama"))
    network.config._attn_implementation = "flex_attention"
    with pytest.raises(UnsupportedModelError, match="needs eager or sdpa attention, got 'flex_attention'"):
        states(network, *batch())
