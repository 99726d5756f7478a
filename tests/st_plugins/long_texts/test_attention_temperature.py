import numpy as np
import pytest
import torch
import transformers
from sentence_transformers import SentenceTransformer
from torch.nn import functional

import families
import st_plugins
from families import but_slow
from long_text_cases import LONG, SHORT, build
from st_plugins.errors import SizeError, UnsupportedModelError
from st_plugins.long_texts import scale_attention
from st_plugins.long_texts.attention_temperature import _QUERIES

KNOWN = sorted(set(_QUERIES) & set(families.available()))


@pytest.fixture
def made(tokenizer, tmp_path):
    def make(name):
        model = build(name, tokenizer, tmp_path / name)
        model[0].auto_model.set_attn_implementation("eager")
        return model

    return make


def states(model, texts):
    """All token embeddings of a padded batch."""
    with torch.inference_mode():
        return [row["token_embeddings"][row["attention_mask"] > 0] for row in model.encode(texts, output_value=None)]


def test_all_families_of_the_tests_are_there():
    assert set(families.CONFIGS) - set(_QUERIES) == {"deberta-v2", "phi3", "gemma2", "gemma3_text"}


@pytest.mark.parametrize("name", but_slow(KNOWN, "bert", "mpnet"))
def test_it_is_a_softmax_at_another_temperature(name, made, monkeypatch):
    model, temperature = made(name), 0.5
    scaled = states(scale_attention(model, temperature), [*SHORT, LONG])
    softmax, calls = functional.softmax, []

    def at_temperature(scores, *arguments, **options):
        calls.append(scores.shape)
        # The mask is added before: not infinity, of which rows of padding in a window would make NaN.
        return softmax((scores / temperature).clamp_min(torch.finfo(scores.dtype).min), *arguments, **options)

    plain = states(model, [*SHORT, LONG])
    monkeypatch.setattr(functional, "softmax", at_temperature)
    expected = states(model, [*SHORT, LONG])
    if not calls and transformers.__version__ < "5":
        pytest.skip("transformers 4 chooses the attention of BERT's relatives when they are built")
    assert len(calls) == 4  # one a layer
    for found, wanted in zip(scaled, expected, strict=True):
        torch.testing.assert_close(found, wanted, atol=2e-5, rtol=1e-4)
    assert not torch.allclose(expected[-1], plain[-1], atol=1e-3)


def test_at_one_nothing_changes_and_twice_is_the_product(plain):
    assert np.array_equal(scale_attention(plain, 1).encode(SHORT), plain.encode(SHORT))
    twice = scale_attention(scale_attention(plain, 0.5), 0.25)
    assert np.array_equal(twice.encode(SHORT), scale_attention(plain, 0.125).encode(SHORT))


def test_sharper_attention_has_less_entropy(made):
    model = made("bert")
    features = model[0].preprocess([LONG[:150]])

    @torch.inference_mode()
    def entropy(temperature):
        network = scale_attention(model, temperature)[0].auto_model
        first = network(**{name: features[name] for name in ("input_ids", "attention_mask")}, output_attentions=True)
        shares = first.attentions[0]
        return float(-(shares * shares.clamp_min(1e-12).log()).sum(-1).mean())

    found = [entropy(temperature) for temperature in (1e-4, 0.5, 1.0, 2.0, 1e4)]
    assert found == sorted(found)
    assert found[0] < 0.2
    tokens = features["input_ids"].shape[1]
    assert found[-1] == pytest.approx(np.log(tokens), abs=1e-4)  # uniform over all tokens


def test_the_model_is_left_as_it_is_and_the_result_is_plain(plain, tmp_path):
    before = plain.encode(SHORT)
    sharper = scale_attention(plain, 0.7)
    assert np.array_equal(plain.encode(SHORT), before)
    own = {id(parameter) for parameter in sharper.parameters()} - {id(parameter) for parameter in plain.parameters()}
    assert len(own) == 2 * 4  # weight and bias of the queries of four layers
    assert all(parameter.requires_grad for parameter in sharper.parameters())
    sharper.save_pretrained(str(tmp_path / "saved"))
    loaded = SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    assert np.array_equal(loaded.encode(SHORT), sharper.encode(SHORT))
    assert st_plugins.fingerprint(sharper) != st_plugins.fingerprint(plain)


def test_elastic_models_are_scaled_at_every_layer(plain):
    options = {"layer": 2, "allow_untrained": True}
    one = scale_attention(st_plugins.elastic(plain), 0.5).encode(SHORT, **options)
    other = st_plugins.elastic(scale_attention(plain, 0.5)).encode(SHORT, **options)
    assert np.array_equal(one, other)


def test_half_precision_stays(plain):
    scaled = scale_attention(plain.half(), 0.5)
    weight = scaled[0].auto_model.encoder.layer[0].attention.self.query.weight
    assert weight.dtype == torch.float16
    assert torch.equal(weight, plain[0].auto_model.encoder.layer[0].attention.self.query.weight * 2)


def test_what_cannot_be_exact_is_refused(plain, made):
    for temperature in (0, -1, float("inf"), float("nan"), True, "hot"):
        with pytest.raises(SizeError, match=f"temperature must be a positive number, got {temperature!r}. 1 changes"):
            scale_attention(plain, temperature)
    for name in ("deberta-v2", "gemma2", "phi3"):
        with pytest.raises(
            UnsupportedModelError, match=rf"\({name}\) is not known to be linear in weights of its queries"
        ):
            scale_attention(made(name), 0.5)

    class Adapter(torch.nn.Linear):
        pass

    plain[0].auto_model.encoder.layer[1].attention.self.query = Adapter(16, 16)
    with pytest.raises(
        UnsupportedModelError, match=r"by 4 plain layers named query, got \['Adapter', 'Linear'\], 4 of"
    ):
        scale_attention(plain, 0.5)
