import pytest
import torch

import st_plugins
from families import available, but_slow
from long_text_cases import LONG, SHORT, build
from st_plugins.errors import SizeError, UnsupportedModelError
from st_plugins.grouped_attention import FAMILIES
from st_plugins.long_texts import self_extend

FAR = LONG * 4  # Qwen2's tokenizer makes few tokens of these words


def vectors(model, texts):
    return model.encode(texts, convert_to_tensor=True)


@pytest.mark.parametrize("family", but_slow([name for name in FAMILIES if name in available()], "llama", "nomic_bert"))
def test_texts_within_the_window_keep_their_vectors_and_longer_ones_do_not(family, tokenizer, tmp_path):
    model = build(family, tokenizer, tmp_path)
    before = vectors(model, [*SHORT, FAR])
    longer = self_extend(model, 120, group_size=4, window=16)
    assert (longer.max_seq_length, longer.tokenizer.model_max_length, model.max_seq_length) == (120, 120, 62)
    assert longer.tokenize([FAR])["input_ids"].shape[1] > 62
    assert torch.allclose(vectors(longer, SHORT), before[:3], atol=1e-6)
    assert torch.equal(vectors(model, [*SHORT, FAR]), before)  # the given model is left as it is
    model.max_seq_length = 120
    far = vectors(model, [FAR])
    assert not torch.allclose(vectors(longer, [FAR]), far, atol=1e-4)
    longer[0].auto_model.config.grouped_attention = [4, 120]  # a window over the whole text is the model itself
    assert torch.allclose(vectors(longer, [FAR]), far, atol=1e-5)
    longer[0].auto_model.config.grouped_attention = [1, 16]  # and so are groups of one
    assert torch.allclose(vectors(longer, [FAR]), far, atol=1e-5)


def test_weights_are_shared(tokenizer, tmp_path):
    model = build("llama", tokenizer, tmp_path)
    longer = self_extend(model, 120, group_size=4, window=16)
    assert next(longer[0].auto_model.parameters()) is next(model[0].auto_model.parameters())
    assert model[0].auto_model.config._attn_implementation != longer[0].auto_model.config._attn_implementation


def test_what_cannot_be_is_refused(tokenizer, tmp_path, plain):
    model = build("llama", tokenizer, tmp_path)
    with pytest.raises(SizeError, match="further apart than the model has positions, 64, and with .* would be 71"):
        self_extend(model, 120, group_size=2, window=24)
    assert self_extend(model, 120, group_size=2, window=8).max_seq_length == 120  # 59 + 8 - 4 = 63
    with pytest.raises(SizeError, match="needs a positive integer window, got 0"):
        self_extend(model, 120, group_size=2, window=0)
    with pytest.raises(UnsupportedModelError, match="Positions can be grouped in .* got bert"):
        self_extend(plain, 64, group_size=2, window=8)
    extended = self_extend(model, 120, group_size=4, window=16)
    with pytest.raises(UnsupportedModelError, match="whose first module is a Transformer with the forward"):
        self_extend(extended, 120, group_size=4, window=16)
    with pytest.raises(UnsupportedModelError, match="that is a plain Transformer, got BidirectionalTransformer"):
        self_extend(st_plugins.bidirectional(model), 120, group_size=4, window=16)
