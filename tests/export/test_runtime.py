"""OnnxEncoder: the vectors of the model in any batch, order and thread, without torch; a clear word for bad input."""

import logging
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

import st_plugins
from st_plugins.errors import ExitError, InputError, SizeError
from st_plugins.exits import encode_with_exits
from st_plugins_export import OnnxEncoder, OnnxModule, export_onnx

LOADED = "import sys; print(sorted({'torch', 'transformers', 'sentence_transformers'} & set(sys.modules)))"


@pytest.fixture(scope="module")
def encoder(exported):
    return OnnxEncoder(exported)


def assert_close(found, expected):
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)


def test_order_is_kept_whatever_the_batches(elastic, encoder, exported, texts):
    many = [f"{text} {i}" for i, text in enumerate(texts * 12)]
    expected = elastic.encode(many)
    assert_close(encoder.encode(many), expected)
    assert_close(encoder.encode(many, batch_size=1), expected)
    assert_close(encoder.encode(many, batch_size=32), expected)
    assert_close(OnnxEncoder(exported, token_budget=10_000, threads=1).encode(many), expected)


def test_one_text_gives_one_vector_and_none_gives_none(elastic, encoder):
    assert_close(encoder.encode("cats sleep"), elastic.encode("cats sleep"))
    assert encoder.encode("cats sleep").shape == (32,)
    assert encoder.encode([]).shape == (0, 32)
    assert encoder.encode([], layer=2, truncate_dim=8).shape == (0, 8)
    assert encoder.encode(["a"]).dtype == np.float32


def test_any_sequence_of_strings_is_taken(encoder):
    expected = encoder.encode(["a", "cats"])
    assert_close(encoder.encode(("a", "cats")), expected)
    assert_close(encoder.encode(np.array(["a", "cats"])), expected)


def test_more_texts_than_are_tokenized_at_once(encoder, monkeypatch, capsys):
    texts = ["cats", "a", "the weather", "sleep", "b"]
    expected = encoder.encode(texts)
    monkeypatch.setattr("st_plugins_export.text_run._CHUNK", 2)
    assert_close(encoder.encode(texts, show_progress_bar=True), expected)
    assert "5/5" in capsys.readouterr().err
    with pytest.raises(InputError, match="position 3 is not valid Unicode"):
        encoder.encode(["a", "b", "c", "\ud800"])


def test_sizes_are_those_of_the_folder(elastic, encoder):
    assert encoder.sizes == ((3, 32), (2, 16))
    assert encoder.get_embedding_dimension() == 32
    assert encoder.max_seq_length == 24
    assert encoder.fingerprint == st_plugins.fingerprint(elastic)


def test_a_trained_dim_is_cut_from_a_wider_export(elastic, encoder, texts):
    for layer, dim in ((2, 8), (3, 16)):
        found = encoder.encode(texts, layer=layer, truncate_dim=dim)
        assert_close(found, elastic.encode(texts, layer=layer, truncate_dim=dim))
        assert_close(np.linalg.norm(found, axis=1), np.ones(len(texts)))


@pytest.mark.parametrize(("layer", "dim"), [(1, None), (2, None), (2, 12), (3, 64), (4, 16), (0, 32)])
def test_sizes_that_were_not_exported_are_refused(encoder, layer, dim):
    message = r"these sizes \(layer, dim\): \[\(2, 8\), \(2, 16\), \(3, 16\), \(3, 32\)\], got layer="
    with pytest.raises(SizeError, match=message):
        encoder.encode(["a"], layer=layer, truncate_dim=dim)


def test_prompts_are_applied_as_in_sentence_transformers(elastic, encoder, texts):
    assert_close(encoder.encode(texts, prompt_name="title"), elastic.encode(texts, prompt_name="title"))
    assert_close(encoder.encode(texts, prompt="of "), elastic.encode(texts, prompt="of "))
    assert_close(encoder.encode(texts, prompt="of ", prompt_name="none"), elastic.encode(texts, prompt="of "))
    assert_close(encoder.encode_query(texts), elastic.encode_query(texts))
    assert_close(encoder.encode_query(texts, prompt=""), elastic.encode(texts, prompt=""))
    assert_close(encoder.encode_document(texts), elastic.encode_document(texts))
    assert_close(encoder.encode_document(texts, prompt_name="title"), elastic.encode(texts, prompt_name="title"))
    options = {"layer": 2, "truncate_dim": 8}
    assert_close(encoder.encode_query("a", **options), elastic.encode_query("a", **options))
    assert_close(encoder.encode_document("a", **options), elastic.encode_document("a", **options))
    with pytest.raises(InputError, match=r"one of the model's prompts, \['query', 'document', 'title'\], got 'x'"):
        encoder.encode(texts, prompt_name="x")


def test_default_prompt_and_other_names_of_documents(build, texts, tmp_path):
    model = build(prompts={"corpus": "the ", "passage": "of ", "title": "name "}, layers=1)
    del model.prompts["document"]  # sentence-transformers adds an empty one
    model.default_prompt_name = "title"
    export_onnx(model, tmp_path / "out", show_progress=False)
    encoder = OnnxEncoder(tmp_path / "out")
    for name in ("encode", "encode_query", "encode_document"):
        for options in ({}, {"normalize_embeddings": True}):
            assert_close(getattr(encoder, name)(texts, **options), getattr(model, name)(texts, **options))
    assert_close(encoder.encode_document(texts), model.encode(texts, prompt="of "))
    assert_close(encoder.encode(texts), model.encode(texts, prompt="name "))


def test_tokens_are_those_of_sentence_transformers(elastic, encoder, texts):
    odd = [*texts, "[MASK] [SEP]", "a\0b", "ﬁ ligature", "e\u0301", "\u200b", "x" * 500, "😀" * 30]
    features = elastic.preprocess(odd)
    rows = zip(features["input_ids"], features["attention_mask"], strict=True)
    expected = [ids[mask.bool()].tolist() for ids, mask in rows]
    assert [encoding.ids for encoding in encoder._opened.tokenize(odd)] == expected


def test_cut_texts_are_counted_in_one_warning(encoder, caplog):
    with caplog.at_level(logging.WARNING, "st_plugins_export.runtime"):
        encoder.encode(["cats " * 30, "a", "sleep " * 40])
    assert [record.getMessage() for record in caplog.records] == ["2 of 3 texts have more than 24 tokens and were cut."]
    caplog.clear()
    encoder.encode(["a", "cats " * 22])
    assert caplog.records == []


def test_what_is_no_text_is_refused_with_its_position(encoder):
    with pytest.raises(TypeError, match="must be a string, got int at position 1"):
        encoder.encode(["a", 3])
    with pytest.raises(TypeError, match="must be a string, got NoneType at position 0"):
        encoder.encode([None], prompt="find: ")
    with pytest.raises(InputError, match=r"position 2 is not valid Unicode .*errors='replace'"):
        encoder.encode(["a", "b", "\ud800"])


def test_nan_never_leaves_the_encoder(build, tmp_path):
    model = build(layers=1)
    tokens = model[0].auto_model.embeddings.word_embeddings
    with torch.no_grad():  # sleeps harmlessly in the row of a token that no probe contains
        tokens.weight[model.tokenizer.convert_tokens_to_ids("cats")] = torch.nan
    export_onnx(model, tmp_path / "out", show_progress=False)
    encoder = OnnxEncoder(tmp_path / "out")
    assert np.isfinite(encoder.encode(["a", "sleep"])).all()
    with pytest.raises(InputError, match="NaN or infinity for the text at position 1"):
        encoder.encode(["sleep", "cats", "a", "the cats sleep"])
    module = OnnxModule.as_sentence_transformer(tmp_path / "out")
    with pytest.raises(InputError, match=r"text at position 0 of its batch \(.*sorts texts by their length\)\. Leave"):
        module.encode(["sleep", "a", "the cats sleep"])


def test_numbers_must_be_positive(exported, encoder):
    for name in ("token_budget", "threads", "cores_per_batch"):
        with pytest.raises(ValueError, match=f"{name} must be a positive integer, got 0"):
            OnnxEncoder(exported, **{name: 0})
    with pytest.raises(ValueError, match="batch_size must be a positive integer, got -1"):
        encoder.encode(["a"], batch_size=-1)


def test_a_batch_takes_the_cores_it_is_given_and_leaves_the_rest_to_others(exported, texts, monkeypatch):
    monkeypatch.setattr("st_plugins_export.runtime.cores", lambda: 5)
    encoder = OnnxEncoder(exported, cores_per_batch=2)
    assert_close(encoder.encode(texts), OnnxEncoder(exported).encode(texts))
    options = encoder._opened._sessions.session(encoder._manifest.full).get_session_options()
    assert (options.intra_op_num_threads, encoder._workers) == (2, 2)
    assert OnnxEncoder(exported, cores_per_batch=8)._workers == 1
    assert OnnxEncoder(exported, cores_per_batch=2, threads=3)._workers == 3
    assert OnnxEncoder(exported)._workers == 5


def test_an_encoder_survives_a_change_of_folder(exported, monkeypatch, tmp_path):
    monkeypatch.chdir(exported.parent)
    encoder = OnnxEncoder(exported.name)
    monkeypatch.chdir(tmp_path)
    assert encoder.encode("a").shape == (32,)


def test_threads_may_share_an_encoder(exported, texts):
    encoder = OnnxEncoder(exported)
    jobs = [({}, texts), ({"layer": 2, "truncate_dim": 16}, texts[::-1]), ({"prompt_name": "query"}, texts[:2])] * 8
    alone = OnnxEncoder(exported)
    expected = [alone.encode(job_texts, **options) for options, job_texts in jobs]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda job: encoder.encode(job[1], **job[0]), jobs))
    for vectors, wanted in zip(found, expected, strict=True):
        assert_close(vectors, wanted)
    assert len(encoder._opened._sessions._opened) == 2


@pytest.fixture(scope="module")
def leaving_encoder(exported_exits):
    return OnnxEncoder(exported_exits, token_budget=40)


@pytest.mark.parametrize("policy", ["gate", "saturation"])
def test_exits_are_those_of_the_model_in_any_batch(leaving, leaving_encoder, texts, policy):
    many = [f"{text} {i}" for i, text in enumerate(texts * 3)]
    vectors, layers = encode_with_exits(leaving, many, exit=policy)
    assert len(set(layers.tolist())) > 1
    found = leaving_encoder.encode_with_exits(many, exit=policy)
    assert_close(found[0], vectors)
    np.testing.assert_array_equal(found[1], layers)
    assert_close(leaving_encoder.encode(many, exit=policy), vectors)
    assert_close(leaving_encoder.encode(many, exit=policy, batch_size=1), vectors)
    assert_close(leaving_encoder.encode(many[3], exit=policy), vectors[3])


def test_exits_with_prompts_and_trained_dims(leaving, leaving_encoder, texts):
    for name in ("encode", "encode_query", "encode_document"):
        for options in ({"exit": "gate"}, {"exit": "gate", "truncate_dim": 8}, {"exit": "gate", "prompt": "of "}):
            assert_close(getattr(leaving_encoder, name)(texts, **options), getattr(leaving, name)(texts, **options))
    with pytest.raises(SizeError, match=r"have these dims: \[8, 16, 32\], got truncate_dim=12"):
        leaving_encoder.encode(texts, exit="gate", truncate_dim=12)


def test_prompts_and_exits_are_those_of_the_model(leaving, leaving_encoder):
    assert leaving_encoder.prompts == leaving.prompts
    expected = {name: st_plugins.fingerprint(leaving, exit=name) for name in ("gate", "saturation")}
    assert leaving_encoder.exit_fingerprints == expected
    assert len({*expected.values(), leaving_encoder.fingerprint}) == 3


def test_layers_may_be_told_text_by_text(leaving, leaving_encoder, texts):
    layers = [1, 3, 2, 1, 2, 3]
    vectors, found = leaving_encoder.encode_with_exits(texts, layers=layers)
    assert found.tolist() == layers
    for text, layer, vector in zip(texts, layers, vectors, strict=True):
        assert_close(vector, leaving.encode(text, layer=layer))
    with pytest.raises(InputError, match="one layer for each of the 6 texts, got 2"):
        leaving_encoder.encode_with_exits(texts, layers=[1, 2])


def test_exits_that_contradict_or_are_missing_are_refused(encoder, leaving_encoder):
    assert (encoder.exits, leaving_encoder.exits) == ((), ("gate", "saturation"))
    with pytest.raises(ExitError, match=r"policies, \['gate', 'saturation'\], got 'fast'"):
        leaving_encoder.encode(["a"], exit="fast")
    with pytest.raises(ExitError, match="leave layer out, got exit='gate' and layer=3"):
        leaving_encoder.encode(["a"], exit="gate", layer=3)
    for options in ({}, {"exit": "gate", "layers": [1]}):
        with pytest.raises(ExitError, match="takes either exit or layers, got exit="):
            leaving_encoder.encode_with_exits(["a"], **options)
    with pytest.raises(InputError, match="must be a list of texts, got one text"):
        leaving_encoder.encode_with_exits("a", exit="gate")


def test_no_texts_leave_nowhere(leaving_encoder):
    vectors, layers = leaving_encoder.encode_with_exits([], exit="gate")
    assert (vectors.shape, layers.shape, layers.dtype) == ((0, 32), (0,), np.int64)


def run_python(code, *arguments):
    result = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()[-1]


def test_encoding_loads_no_torch(exported):
    paths = "import sys; sys.path[:0] = ['.', 'export']; "
    use = "from st_plugins_export import OnnxEncoder; OnnxEncoder(sys.argv[1]).encode('a', show_progress_bar=True); "
    assert run_python(paths + "import st_plugins_export.runtime; " + LOADED) == "[]"
    assert run_python(paths + use + LOADED, str(exported)) == "[]"


@pytest.mark.slow
def test_the_test_for_torch_can_fail():
    assert run_python("import torch; " + LOADED) == "['torch']"


@pytest.mark.slow
def test_minilm_in_large_mixed_batches(minilm, minilm_export):
    folder, _ = minilm_export
    texts = [" ".join(["word"] * (1 + i * 7 % 300)) for i in range(64)]
    expected = minilm.encode(texts)
    for batch_size in (1, 32):
        found = OnnxEncoder(folder, token_budget=32 * 256).encode(texts, batch_size=batch_size)
        np.testing.assert_allclose(found, expected, atol=1e-6, rtol=0)
