import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

import st_plugins
from long_text_cases import LONG, SHORT, build
from st_plugins.errors import SizeError, UnsupportedModelError
from st_plugins.long_texts import extend_positions
from st_plugins.modules import InterpolatedTransformer
from st_plugins.position_tables import PositionTable

TEXTS = [*SHORT, LONG, LONG[:150]]


@pytest.fixture(params=["bert", "mpnet"])
def longer(request, tokenizer, tmp_path):
    return extend_positions(
        build(request.param, tokenizer, tmp_path / "model"), 124, method="interpolate", keep_short=True
    )


def test_batches_and_padding_change_no_vector(longer):
    together = longer.encode(TEXTS, batch_size=8)
    assert np.allclose(together, np.stack([longer.encode(text) for text in TEXTS]), atol=1e-6)
    features = longer[0].preprocess(SHORT[:1])
    wider = {name: torch.nn.functional.pad(value, (0, 9)) for name, value in features.items() if torch.is_tensor(value)}
    count = features["input_ids"].shape[1]
    with torch.inference_mode():
        expected, found = longer[0](features)["token_embeddings"], longer[0](wider)["token_embeddings"]
    torch.testing.assert_close(found[:, :count], expected, atol=1e-5, rtol=1e-4)


def test_it_is_saved_with_its_rule_and_a_warning(longer, tmp_path):
    with pytest.warns(
        UserWarning, match="by InterpolatedTransformer only: a reader that takes this folder for a plain"
    ):
        longer.save_pretrained(str(tmp_path / "saved"))
    for loaded in (
        st_plugins.load(tmp_path / "saved", device="cpu"),
        SentenceTransformer(str(tmp_path / "saved"), device="cpu", trust_remote_code=True),
    ):
        assert type(loaded[0]) is InterpolatedTransformer
        assert loaded[0].original_length == longer[0].original_length
        assert np.allclose(loaded.encode(TEXTS), longer.encode(TEXTS), atol=1e-6)
        assert st_plugins.fingerprint(loaded) == st_plugins.fingerprint(longer)


def test_left_padding_gives_the_same(longer):
    expected = longer.encode(TEXTS)
    longer.tokenizer.padding_side = "left"
    assert np.allclose(longer.encode(TEXTS), expected, atol=1e-6)


def test_gradients_reach_every_row_in_use(longer):
    table = PositionTable.of(longer[0].auto_model)
    features = longer.train()[0].preprocess([SHORT[0]])  # six words and two special tokens
    longer[0](features)["token_embeddings"].square().sum().backward()
    is_used = table.home.position_embeddings.weight.grad.abs().sum(1) > 0
    assert is_used.nonzero().flatten().tolist() == [table.offset + 2 * place for place in range(8)]


def test_lengths_that_do_not_fit_are_refused(plain):
    for length in (0, 5, True, None):
        with pytest.raises(SizeError, match=rf"multiple of original_length long, got original_length={length} for 32"):
            InterpolatedTransformer.from_transformer(plain[0], length)
    found = InterpolatedTransformer.from_transformer(plain[0], 32)
    with pytest.raises(UnsupportedModelError, match="needs padded inputs, got flattened"):
        found({"cu_seq_lens_q": torch.tensor([0, 1])})
    assert repr(found).startswith("InterpolatedTransformer(")
