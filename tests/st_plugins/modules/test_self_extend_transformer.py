import pytest
import torch

import st_plugins
from families import available, but_slow
from long_text_cases import LONG, SHORT, build
from st_plugins.errors import SizeError, UnsupportedModelError
from st_plugins.grouped_attention import FAMILIES
from st_plugins.long_texts import self_extend
from st_plugins.modules import SelfExtendTransformer

TEXTS = [*SHORT, LONG, LONG[:200]]


@pytest.fixture
def extended(tokenizer, tmp_path, request):
    return self_extend(build(request.param, tokenizer, tmp_path / "model"), 120, group_size=4, window=16)


every = pytest.mark.parametrize(
    "extended", but_slow([name for name in FAMILIES if name in available()], "llama", "eurobert"), indirect=True
)


@every
def test_padding_and_batch_change_nothing(extended):
    alone = torch.stack([extended.encode(text, convert_to_tensor=True) for text in TEXTS])
    for side in ("right", "left"):
        extended.tokenizer.padding_side = side
        together = extended.encode(TEXTS, convert_to_tensor=True, batch_size=len(TEXTS))
        assert torch.allclose(together, alone, atol=1e-5)


@every
def test_it_is_saved(extended, tmp_path):
    extended.save_pretrained(str(tmp_path / "saved"))
    loaded = st_plugins.load(tmp_path / "saved", device="cpu")
    assert type(loaded[0]) is SelfExtendTransformer
    assert (loaded[0].group_size, loaded[0].window, loaded.max_seq_length) == (4, 16, 120)
    assert torch.equal(*(model.encode([LONG], convert_to_tensor=True) for model in (extended, loaded)))
    assert st_plugins.fingerprint(loaded) == st_plugins.fingerprint(extended)
    other = self_extend(build("llama", extended.tokenizer, tmp_path / "again"), 120, group_size=5, window=16)
    assert st_plugins.fingerprint(other) != st_plugins.fingerprint(
        self_extend(build("llama", extended.tokenizer, tmp_path / "again"), 120, group_size=4, window=16)
    )


def test_what_cannot_be_is_refused(tokenizer, tmp_path):
    model = build("llama", tokenizer, tmp_path / "model")
    with pytest.raises(SizeError, match="SelfExtendTransformer needs a positive integer group_size, got 0"):
        SelfExtendTransformer(str(tmp_path / "model"), group_size=0, window=4)
    extended = self_extend(model, 120, group_size=4, window=16)
    with pytest.raises(UnsupportedModelError, match="needs padded inputs, got flattened"):
        extended[0]({"cu_seq_lens_q": torch.tensor([0, 2])})
    with pytest.raises(UnsupportedModelError, match="must be sentence-transformers' Transformer, got SelfExtend"):
        st_plugins.elastic(extended)


def test_it_says_what_it_is(tokenizer, tmp_path):
    assert repr(self_extend(build("llama", tokenizer, tmp_path), 120, group_size=4, window=16)[0]).startswith("SelfExt")
