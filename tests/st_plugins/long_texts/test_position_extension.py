import json
from inspect import signature

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize

import families
import st_plugins
from families import but_slow
from long_text_cases import LONG, SHORT, build
from st_plugins.errors import InputError, SizeError, UnsupportedModelError
from st_plugins.long_texts import extend_positions
from st_plugins.position_tables import FAMILIES, PositionTable
from st_plugins_export import OnnxEncoder, export_onnx

needs_rope_parameters = pytest.mark.skipif(
    not hasattr(families.AutoConfig.for_model("llama"), "rope_parameters"),
    reason="transformers 4 has no rope_parameters",
)


@pytest.fixture
def made(tokenizer, tmp_path):
    def make(name):
        return build(name, tokenizer, tmp_path / name)

    return make


def worst(model, other, texts):
    return float(np.abs(model.encode(texts) - other.encode(texts)).max())


@pytest.mark.parametrize("name", but_slow(FAMILIES, "bert", "mpnet"))
def test_short_texts_are_embedded_as_before(name, made):
    model = made(name)
    texts = [*SHORT, LONG[:200]]
    recurrent = extend_positions(model, 100, method="recurrent")
    assert worst(model, recurrent, texts) < 1e-6
    kept = extend_positions(model, 100, method="interpolate", keep_short=True)
    assert worst(model, kept, texts) < 1e-6
    assert (
        worst(model, extend_positions(model, 100, method="interpolate"), texts) > 1e-5
    )  # which is why there is keep_short
    for longer in (recurrent, kept):
        assert longer.max_seq_length == 100
        assert np.isfinite(longer.encode(LONG)).all()
        assert worst(model, longer, [LONG]) > 1e-4  # it reads on where the model stops


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert"])
@pytest.mark.parametrize("method", ["recurrent", "grouped"])
def test_long_texts_take_the_positions_of_the_formula(name, method, made):
    model = made(name)
    network, offset = model[0].auto_model, PositionTable.of(model[0].auto_model).offset
    if "position_ids" not in signature(network.forward).parameters:
        pytest.skip("transformers 4 tells DistilBERT no positions")
    longer = extend_positions(model, 150, method=method, original_length=50)[0].auto_model
    ids, places = torch.randint(5, 24, (2, 150)), torch.arange(150)
    positions = places % 50 if method == "recurrent" else places // 3
    options = {} if name == "distilbert" else {"token_type_ids": torch.zeros_like(ids)}
    expected = network(input_ids=ids, position_ids=(positions + offset).expand(2, -1), **options)[0]
    torch.testing.assert_close(longer(input_ids=ids)[0], expected, atol=1e-5, rtol=1e-4)


def test_long_texts_lie_between_the_old_positions(made):
    model = made("bert")
    longer = extend_positions(model, 100, original_length=50, method="interpolate", keep_short=True)
    table, old = PositionTable.of(longer[0].auto_model).rows, PositionTable.of(model[0].auto_model).rows
    assert torch.allclose(table[31], (old[15] + old[16]) / 2)
    seen = []
    PositionTable.of(longer[0].auto_model).home.position_embeddings.register_forward_hook(
        lambda module, inputs, output: seen.append(inputs[0])
    )
    longer.encode(["it", LONG], batch_size=2)
    assert seen[0][0].tolist() == list(range(92))  # LONG
    assert seen[0][1].tolist() == [0, 2, 4] + [0] * 89


def test_the_model_is_left_as_it_is_and_shares_its_weights(plain):
    longer = extend_positions(plain, 64, method="interpolate")
    table = plain[0].auto_model.embeddings.position_embeddings.weight
    assert (len(table), plain.max_seq_length, plain[0].auto_model.config.max_position_embeddings) == (32, 32, 32)
    shared = {id(parameter) for parameter in plain.parameters()} & {id(parameter) for parameter in longer.parameters()}
    assert len(shared) == len(list(plain.parameters())) - 1
    assert longer[1] is plain[1]
    assert st_plugins.fingerprint(longer) != st_plugins.fingerprint(plain)


@pytest.mark.parametrize("method", but_slow(["recurrent", "grouped"], "interpolate"))
def test_a_plain_model_is_saved_that_loads_anywhere(method, made, tmp_path):
    longer = extend_positions(made("roberta"), 124, method=method)
    longer.save_pretrained(str(tmp_path / "saved"))
    types = {entry["type"] for entry in json.loads((tmp_path / "saved" / "modules.json").read_text())}
    assert all(name.startswith("sentence_transformers.") for name in types)
    loaded = SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    assert loaded.max_seq_length == 124
    assert np.array_equal(loaded.encode([*SHORT, LONG]), longer.encode([*SHORT, LONG]))


def test_elastic_models_are_extended_at_every_layer(model):
    longer = extend_positions(model, 64, method="recurrent")
    options = {"layer": 2, "allow_untrained": True}
    assert np.allclose(longer.encode(SHORT, **options), model.encode(SHORT, **options), atol=1e-6)
    assert not np.allclose(longer.encode([LONG], **options), model.encode([LONG], **options), atol=1e-4)


def test_fewer_positions_may_be_taken_than_there_are(made):
    longer = extend_positions(made("bert"), 40, method="recurrent", original_length=20)
    table = PositionTable.of(longer[0].auto_model).rows
    assert torch.equal(table[:20], table[20:])
    assert len(table) == 40


@needs_rope_parameters
@pytest.mark.parametrize(("name", "method"), [("llama", "interpolate"), ("modernbert", "ntk")])
def test_rotary_positions_are_scaled_by_the_configuration_alone(name, method, made, tmp_path):
    model = made(name)
    longer = extend_positions(model, 128, method=method)
    assert (longer[0].auto_model.config.max_position_embeddings, longer.max_seq_length) == (128, 128)
    assert worst(model, longer, SHORT[:1]) > 1e-6
    assert {id(parameter) for parameter in longer.parameters()} == {id(parameter) for parameter in model.parameters()}
    longer.save_pretrained(str(tmp_path / "saved"))
    loaded = SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    assert worst(loaded, longer, [*SHORT, LONG]) < 1e-6
    assert worst(model, made(name), SHORT) < 1e-6  # left as it was


@needs_rope_parameters
def test_interpolated_rotary_positions_are_positions_divided(made):
    network = made("llama")[0].auto_model
    longer = extend_positions(made("llama"), 256, method="interpolate")[0].auto_model
    states, places = torch.zeros(1, 5, 32), torch.tensor([[0, 1, 2, 40, 200]])
    for old, new in zip(network.rotary_emb(states, places / 4), longer.rotary_emb(states, places), strict=True):
        torch.testing.assert_close(new, old)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{"method": "recurrent"}, {"method": "interpolate"}, {"method": "interpolate", "keep_short": True}]
)
def test_what_is_extended_can_be_exported(options, made, tmp_path):
    longer = extend_positions(made("bert"), 124, **options)
    export_onnx(longer, tmp_path / "onnx", show_progress=False)
    found = OnnxEncoder(tmp_path / "onnx").encode([*SHORT, LONG])
    assert np.allclose(found, longer.encode([*SHORT, LONG]), atol=1e-5)


@needs_rope_parameters
@pytest.mark.slow
@pytest.mark.parametrize("name", ["modernbert", "qwen2"])
def test_scaled_rotary_models_can_be_exported(name, made, tmp_path):
    longer = extend_positions(made(name), 124, method="ntk")
    export_onnx(longer, tmp_path / "onnx", show_progress=False)
    found = OnnxEncoder(tmp_path / "onnx").encode([*SHORT, LONG])
    assert np.allclose(found, longer.encode([*SHORT, LONG]), atol=1e-5)


def test_lengths_and_methods_that_make_no_sense_are_refused(plain):
    with pytest.raises(InputError, match="method must be one of interpolate, recurrent, grouped, ntk, got 'longer'"):
        extend_positions(plain, 64, method="longer")
    with pytest.raises(InputError, match="ntk is for rotary positions, and BertModel has a learned table. Take one of"):
        extend_positions(plain, 64, method="ntk")
    with pytest.raises(InputError, match="keep_short is for method='interpolate', got 'recurrent'. Leave it out"):
        extend_positions(plain, 64, method="recurrent", keep_short=True)
    for original in (0, 33, 2.0, True):
        with pytest.raises(SizeError, match=rf"original_length must be an integer from 1 to 32 .*, got {original}"):
            extend_positions(plain, 64, original_length=original, method="interpolate")
    for length in (32, 64.0, "64"):
        with pytest.raises(
            SizeError, match=rf"max_length must be an integer above the original length, 32, got {length!r}"
        ):
            extend_positions(plain, length, method="interpolate")


def test_models_that_cannot_be_extended_are_refused(plain, model, made):
    static = SentenceTransformer(modules=[Normalize()], device="cpu")
    with pytest.raises(
        UnsupportedModelError, match="extend_positions needs a model whose first module is a Transformer .*Norm"
    ):
        extend_positions(static, 64, method="interpolate")
    with pytest.raises(
        UnsupportedModelError, match="keep_short needs a first module that is a plain Transformer, got El"
    ):
        extend_positions(model, 64, method="interpolate", keep_short=True)
    with pytest.raises(UnsupportedModelError, match="were extended already. Extend the model that it was made from"):
        extend_positions(extend_positions(plain, 64, method="interpolate", keep_short=True), 128, method="interpolate")
    for name in ("t5", "deberta-v2"):
        with pytest.raises(UnsupportedModelError, match=r"learned table of positions, or rotary ones .*; got (T5|Deb)"):
            extend_positions(made(name), 128, method="interpolate")


@needs_rope_parameters
def test_rotary_models_that_cannot_be_extended_are_refused(made):
    model = made("llama")
    with pytest.raises(
        ValueError, match="LlamaModel has rotary positions and no table of them: .*got 'grouped' and Fal"
    ):
        extend_positions(model, 128, method="grouped")
    with pytest.raises(SizeError, match="max_length must be an integer above the original length, 64, got 64"):
        extend_positions(model, 64, method="interpolate")
    scaled = extend_positions(model, 128, method="interpolate")
    with pytest.raises(
        UnsupportedModelError, match="as they were trained, rope_type='default', got 'linear'. Set max_s"
    ):
        extend_positions(scaled, 256, method="interpolate")
