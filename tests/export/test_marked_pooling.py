"""Prompts that pooling leaves out, in every graph and runtime, against sentence-transformers."""

import numpy as np
import pytest
import torch
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, WordWeights

import st_plugins
from st_plugins.errors import ParityError
from st_plugins.exits import ExitPolicy, Gate
from st_plugins_export import OnnxEncoder, OnnxModule, check_parity, export_onnx
from st_plugins_export.marked_pooling import MarkedPooling, behind_marks, read_marks
from st_plugins_export.opened import OpenedExport
from st_plugins_export.probes import find_probes

PROMPTS = {"query": "find: ", "document": "", "title": "name of the weather: "}
CALLS = ({"prompt": ""}, {"prompt_name": "title"}, {"prompt": "cats "})
HEADS = ((0.0, 0.0, 0.0, -0.4, 1.2), (0.2, 0.0, 0.1, -0.2, 0.5))


def assert_close(found, expected):
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def silent(build_in, tmp_path_factory):
    """Elastic, with every pooling there is and an exit policy, and its export, read only."""
    folder = tmp_path_factory.mktemp("silent")
    options = {"prompts": dict(PROMPTS), "include_prompt": False}
    plain = build_in(folder / "model", pooling=Pooling.POOLING_MODES, **options)
    model = st_plugins.elastic(plain, sizes=[(layer, 96) for layer in (1, 2, 3)])
    model[0].add_exit_policy(ExitPolicy("gate", Gate((1, 2), HEADS), 0.26, (1, 2, 3)))
    export_onnx(model, folder / "out", sizes=[(2, 96)], exits=["gate"], show_progress=False)
    return model, folder / "out"


@pytest.mark.parametrize("call", CALLS, ids=str)
def test_all_graphs_and_runtimes_leave_the_prompt_out_as_torch_does(silent, texts, call):
    model, folder = silent
    encoder, module = OnnxEncoder(folder, token_budget=80), OnnxModule.as_sentence_transformer(folder)
    many = [f"{text} {i}" for i, text in enumerate(texts * 2)]
    for size in ({}, {"layer": 2, "truncate_dim": 96}, {"exit": "gate"}):
        expected = model.encode(many, **call, **size)
        assert_close(encoder.encode(many, **call, **size), expected)
        assert_close(module.encode(many, **call, **size), expected)
    unit, _ = encoder.encode_with_exits(many, exit="gate", normalize_embeddings=True, **call)
    assert_close(unit, model.encode(many, exit="gate", normalize_embeddings=True, **call))


def test_queries_and_documents_take_their_prompts(silent, texts):
    model, folder = silent
    for runtime in (OnnxEncoder(folder), OnnxModule.as_sentence_transformer(folder)):
        assert_close(runtime.encode_query(texts), model.encode_query(texts))
        assert_close(runtime.encode_document(texts), model.encode_document(texts))


@pytest.mark.slow
def test_lower_precisions_leave_the_prompt_out_too(build, texts, tmp_path):
    model = build(pooling="weightedmean", include_prompt=False, prompts=dict(PROMPTS), behind=[Normalize()])
    export_onnx(model, tmp_path / "out", precisions=["fp16", "int8"], show_progress=False)
    expected = model.encode(texts, prompt_name="title")
    for precision in ("fp16", "int8"):
        encoder = OnnxEncoder(tmp_path / "out", precision=precision)
        assert (encoder.encode(texts, prompt_name="title") * expected).sum(axis=1).min() > 0.98
        pooled = encoder.encode([PROMPTS["title"] + text for text in texts])
        assert (pooled * expected).sum(axis=1).min() < 0.95


def test_who_sends_no_marks_gets_a_pooling_over_the_prompt_too(silent, texts):
    model, folder = silent
    opened = OpenedExport(folder)
    found = opened.embed(opened.tokenize([f"find: {text}" for text in texts]), opened.manifest.full)
    assert_close(found, model.encode([f"find: {text}" for text in texts]))
    assert not np.allclose(found, model.encode(texts, prompt="find: "), atol=1e-2)


def test_padding_on_the_left_and_weighted_words(build, tmp_path, texts):
    model = build(
        pooling=("weightedmean", "mean", "lasttoken", "cls"), include_prompt=False, padding_side="left", layers=1
    )
    vocabulary = [word for word, _ in sorted(model.tokenizer.get_vocab().items(), key=lambda pair: pair[1])]
    weights = {word: 0.5 + place / 50 for place, word in enumerate(vocabulary)}
    model.insert(1, WordWeights(vocabulary, weights))
    model.append(Normalize())
    export_onnx(model, tmp_path / "out", layout="tokens", show_progress=False)
    for prompt in ("", "find: ", "name of the weather: "):
        assert_close(OnnxEncoder(tmp_path / "out").encode(texts, prompt=prompt), model.encode(texts, prompt=prompt))


def test_the_export_compares_with_prompts_even_where_the_model_has_none(build, tmp_path):
    model = build(include_prompt=False, layers=1)
    export_onnx(model, tmp_path / "out", show_progress=False)
    assert find_probes(model, OpenedExport(tmp_path / "out")).tried.prompts == ("", "Two words: ")
    model[1].include_prompt = True
    with pytest.raises(ParityError, match=r"is .* off in a batch of 1 that starts with 'Two words: a'"):
        check_parity(model, tmp_path / "out")


def test_each_row_has_a_prompt_of_its_own():
    marks = torch.tensor([[2, 2, 1, 1, 0], [2, 1, 1, 1, 1], [0, 0, 1, 1, 1], [0, 2, 2, 2, 1]])
    tokens = torch.randn(4, 5, 3)
    for mode in Pooling.POOLING_MODES:
        pooling = Pooling(3, mode, include_prompt=False)
        (marked,) = behind_marks([pooling])
        assert isinstance(marked, MarkedPooling)
        features = read_marks({"attention_mask": marks, "token_embeddings": tokens})
        assert features["attention_mask"].tolist() == (marks > 0).long().tolist()
        assert features["prompt_length"].tolist() == [2, 1, 0, 3]
        found = marked(features)
        assert found["attention_mask"] is features["attention_mask"]
        for row in range(4):
            alone = {"attention_mask": (marks[row : row + 1] > 0).long(), "token_embeddings": tokens[row : row + 1]}
            expected = pooling({**alone, "prompt_length": int(features["prompt_length"][row])})["sentence_embedding"]
            torch.testing.assert_close(found["sentence_embedding"][row : row + 1], expected)


def test_other_modules_stay_as_they_are():
    modules = [Pooling(3, "mean"), Normalize()]
    assert behind_marks(modules) == modules
