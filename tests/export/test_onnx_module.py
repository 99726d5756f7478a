"""An export inside a SentenceTransformer: all that is built on one runs, with the vectors of the model."""

import copy
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator

import st_plugins
from st_plugins.errors import (
    ExitError,
    InputError,
    ManifestError,
    SizeError,
    UnsafeModelError,
    UnsupportedModelError,
    UntrainedSizeError,
)
from st_plugins.evaluation import ElasticGridEvaluator
from st_plugins_export import OnnxEncoder, OnnxModule, export_onnx

FULL = {"layer": 2, "truncate_dim": 16}


@pytest.fixture(scope="module")
def model(exported):
    return OnnxModule.as_sentence_transformer(exported, threads=2)


@pytest.fixture(scope="module")
def leaving_model(exported_exits):
    return SentenceTransformer(modules=[OnnxModule(exported_exits)], device="cpu")


@pytest.fixture(scope="module")
def similarity():
    pairs = (["a", "cats sleep", "the weather"], ["cats", "sleep", "weather of the"])
    return EmbeddingSimilarityEvaluator(*pairs, [1.0, 0.5, 0.0], show_progress_bar=False)


def assert_close(found, expected):
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"batch_size": 2},
        {"prompt_name": "title"},
        {"prompt": "of "},
        {"truncate_dim": 16},
        FULL,
        {"layer": 2, "truncate_dim": 8},
        {"normalize_embeddings": True},
    ],
)
def test_encode_is_that_of_the_model_with_every_option(elastic, model, texts, options):
    many = [f"{text} {i}" for i, text in enumerate(texts * 4)]
    assert_close(model.encode(many, **options), elastic.encode(many, **options))


def test_queries_documents_tensors_and_similarity(elastic, model, texts):
    assert_close(model.encode_query(texts), elastic.encode_query(texts))
    assert_close(model.encode_document("a"), elastic.encode_document("a"))
    found = model.encode(texts, convert_to_tensor=True)
    assert isinstance(found, torch.Tensor)
    assert found.dtype == torch.float32
    assert_close(model.similarity(found, found), elastic.similarity(found, found))
    quantized = model.encode(texts, precision="binary"), elastic.encode(texts, precision="binary")
    np.testing.assert_array_equal(*quantized)


def test_vectors_are_those_of_the_encoder_whatever_the_padding(exported, model, texts):
    assert_close(model.encode(texts, batch_size=len(texts)), OnnxEncoder(exported).encode(texts))
    features = model.preprocess(["a", "the weather is lovely"])
    rows = model(dict(features))["sentence_embedding"]
    assert_close(rows[0], model(model.preprocess(["a"]))["sentence_embedding"][0])


@pytest.mark.parametrize("side", ["left", "right"])
def test_token_embeddings_where_asked(build, tmp_path, texts, side):
    model = build(padding_side=side, truncation_side=side, layers=1)
    export_onnx(model, tmp_path / "out", layout="tokens", show_progress=False)
    onnx = SentenceTransformer(modules=[OnnxModule(tmp_path / "out", token_embeddings=True)], device="cpu")
    found = onnx.encode(texts, output_value="token_embeddings")
    wanted = model.encode(texts, output_value="token_embeddings")
    lengths = onnx.preprocess(texts)["attention_mask"].sum(dim=1).tolist()
    for row, expected, length in zip(found, wanted, lengths, strict=True):
        # What stands in place of padding is nobody's promise; padding on the left stays in these results.
        tokens = slice(length) if side == "right" else slice(-length, None)
        assert_close(row[tokens], expected[tokens])
    assert_close(onnx.encode(texts), model.encode(texts))


def test_other_precisions_are_those_of_the_encoder(build, tmp_path, texts):
    export_onnx(build(layers=1), tmp_path / "out", precisions=["fp16"], show_progress=False)
    for precision in ("fp32", "fp16"):
        onnx = OnnxModule.as_sentence_transformer(tmp_path / "out", precision=precision)
        assert_close(onnx.encode(texts), OnnxEncoder(tmp_path / "out", precision=precision).encode(texts))
    assert np.abs(onnx.encode(texts) - OnnxEncoder(tmp_path / "out").encode(texts)).max() > 1e-6


def test_token_embeddings_need_their_layout(exported):
    with pytest.raises(UnsupportedModelError, match="an export with layout='tokens', .* has 'portable'"):
        OnnxModule(exported, token_embeddings=True)


def test_exits(leaving, leaving_model, texts):
    assert_close(leaving_model.encode(texts, exit="gate"), leaving.encode(texts, exit="gate"))
    cut = leaving_model.encode(texts, exit="gate", truncate_dim=8)
    assert_close(cut, leaving.encode(texts, exit="gate", truncate_dim=8))
    layers = leaving_model(leaving_model.preprocess(texts), exit="saturation")["exit_layer"]
    expected = leaving(leaving.preprocess(texts), exit="saturation")["exit_layer"]
    assert layers.tolist() == expected.tolist()
    with pytest.raises(ExitError, match="exported policies"):
        leaving_model.encode(texts, exit="fast")
    with pytest.raises(ExitError, match="leave layer out, got exit='gate' and layer=3"):
        leaving_model.encode(texts, exit="gate", layer=3)


def test_sizes_are_those_of_the_folder(model):
    assert model.get_embedding_dimension() == 32
    assert model.max_seq_length == 24
    assert model.prompts["title"] == "name of "
    assert (model[0].depth, model[0].trained_layers()) == (3, [2, 3])
    assert model[0].sizes == [[2, 8], [2, 16], [3, 16], [3, 32]]
    assert model.tokenizer.encode("a").tokens == ["[CLS]", "a", "[SEP]"]
    with pytest.raises(SizeError, match=r"one of the exported ones, \[2, 3\], got 1"):
        model.encode("a", layer=1)
    with pytest.raises(UntrainedSizeError, match="got 7"):
        model.encode("a", truncate_dim=7)
    assert model.encode("a", truncate_dim=7, allow_untrained=True).shape == (7,)


def test_threads_may_share_it(leaving, exported_exits, texts):
    onnx = OnnxModule.as_sentence_transformer(exported_exits, threads=2)
    jobs = [({}, texts), ({"exit": "gate"}, texts[::-1]), ({"truncate_dim": 8}, texts[:2]), ({}, ["cats"])] * 8
    expected = [leaving.encode(job_texts, **options) for options, job_texts in jobs]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda job: onnx.encode(job[1], **job[0]), jobs))
    for vectors, wanted in zip(found, expected, strict=True):
        assert_close(vectors, wanted)


def test_evaluators_run_on_it(elastic, model, similarity):
    assert similarity(model) == pytest.approx(similarity(elastic))
    grid, expected = (ElasticGridEvaluator(similarity, layers=[2, 3], dims=[8, 16])(each) for each in (model, elastic))
    assert {key: grid[key] for key in expected} == pytest.approx(expected)
    assert len(expected) == 4


def test_a_grid_does_not_pass_narrow_vectors_off_as_wide_ones(model, similarity):
    with pytest.raises(SizeError, match="got dim=32 where the model gives 16"):
        ElasticGridEvaluator(similarity, layers=[2, 3], dims=[32])(model)


def test_it_is_saved_and_loaded_without_foreign_code(model, texts, tmp_path, monkeypatch):
    model.save_pretrained(str(tmp_path / "saved"))
    loaded = st_plugins.load(tmp_path / "saved")
    np.testing.assert_array_equal(loaded.encode(texts, **FULL), model.encode(texts, **FULL))
    np.testing.assert_array_equal(loaded.encode_query(texts), model.encode_query(texts))
    trusted = SentenceTransformer(str(tmp_path / "saved"), device="cpu", trust_remote_code=True)
    np.testing.assert_array_equal(trusted.encode(texts), model.encode(texts))
    monkeypatch.delitem(sys.modules, "st_plugins_export.onnx_module")
    with pytest.raises(UnsafeModelError, match="import its module first: from st_plugins_export import OnnxModule"):
        st_plugins.load(tmp_path / "saved")


def test_what_it_is_of_an_export_is_saved(build, tmp_path, texts):
    export_onnx(build(layers=1), tmp_path / "out", precisions=["fp16"], layout="tokens", show_progress=False)
    module = OnnxModule(tmp_path / "out", precision="fp16", token_embeddings=True)
    half = SentenceTransformer(modules=[module], device="cpu")
    half.save_pretrained(str(tmp_path / "saved"))
    loaded = st_plugins.load(tmp_path / "saved")
    assert st_plugins.fingerprint(loaded) == st_plugins.fingerprint(half)
    np.testing.assert_array_equal(loaded.encode(texts), half.encode(texts))
    assert loaded.encode(texts, output_value="token_embeddings")[0].shape[1] == 32
    (tmp_path / "saved" / "0_OnnxModule" / "onnx_module_config.json").unlink()  # as early releases saved it
    assert st_plugins.load(tmp_path / "saved")[0].get_config_dict() == {"precision": "fp32", "token_embeddings": False}


def test_a_loaded_model_can_be_saved_over_itself(model, texts, tmp_path):
    model.save_pretrained(str(tmp_path / "saved"))
    st_plugins.load(tmp_path / "saved").save_pretrained(str(tmp_path / "saved"))
    np.testing.assert_array_equal(st_plugins.load(tmp_path / "saved").encode(texts), model.encode(texts))


def test_a_saved_copy_that_was_changed_is_not_opened(model, tmp_path):
    model.save_pretrained(str(tmp_path / "saved"))
    (tmp_path / "saved" / "0_OnnxModule" / "tokenizer.json").write_text("{}")
    with pytest.raises(ManifestError, match=r"tokenizer\.json is not the file that was exported"):
        st_plugins.load(tmp_path / "saved")


def test_a_copy_opens_the_folder_anew(model, texts):
    twin = copy.deepcopy(model)
    assert twin[0]._options == model[0]._options
    assert not twin[0].training
    np.testing.assert_array_equal(twin.encode(texts), model.encode(texts))


def test_it_does_not_train(model):
    features = model.preprocess(["a"])
    model.train()
    try:
        with pytest.raises(UnsupportedModelError, match=r"has no gradients.*call model\.eval\(\)"):
            model(features)
    finally:
        model.eval()


def test_what_cannot_be_embedded_is_refused(model):
    with pytest.raises(TypeError, match="must be a string, got int at position 1"):
        model.encode(["a", 3])
    with pytest.raises(InputError, match="position 0 is not valid Unicode"):
        model.encode(["\ud800"])
