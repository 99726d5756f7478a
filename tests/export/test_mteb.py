"""Tasks of mteb run on an export, with the scores of the model it came from."""

import mteb
import pytest

import st_plugins
from mteb_tasks import Search, Similarity
from st_plugins.errors import ExitError, SizeError
from st_plugins.evaluation import MtebEncoder
from st_plugins_export import OnnxModule

FIRST = ["a", "cats sleep", "the weather", "of the cats", "name"]
SECOND = ["cats", "sleep", "weather of the", "the cats sleep", "find the word"]


def score(encoder, task):
    return mteb.evaluate(encoder, task, cache=None, show_progress_bar=False).task_results[0].get_score()


def assert_same_scores(elastic, onnx, **size):
    expected, found = MtebEncoder(elastic, **size), MtebEncoder(onnx, **size)
    for make in (lambda: Similarity(FIRST, SECOND, [5, 4, 3, 2, 1]), Search):
        assert score(found, make()) == pytest.approx(score(expected, make()), abs=1e-5)
    meta, wanted = found.mteb_model_meta, expected.mteb_model_meta
    assert meta.name.rpartition("@")[2] == wanted.name.rpartition("@")[2]
    assert (meta.embed_dim, meta.max_tokens) == (wanted.embed_dim, wanted.max_tokens)
    assert (meta.framework, meta.n_parameters) == (["Sentence Transformers", "ONNX"], None)
    return meta.revision, wanted.revision


@pytest.mark.parametrize("size", [{}, {"layer": 2, "dim": 16}, {"dim": 16, "query_layer": 2}])
def test_sizes(elastic, exported, size):
    onnx = OnnxModule.as_sentence_transformer(exported)
    found, expected = assert_same_scores(elastic, onnx, **size)
    has_a_file = size.get("dim") is None or "layer" in size
    assert (found == expected) == has_a_file
    assert MtebEncoder(onnx).mteb_model_meta.name == f"local/{exported.name}@3x32"


@pytest.mark.parametrize("policy", ["gate", "saturation"])
def test_exits(leaving, exported_exits, policy):
    onnx = OnnxModule.as_sentence_transformer(exported_exits)
    found, expected = assert_same_scores(leaving, onnx, exit=policy)
    assert found == expected
    with pytest.raises(ExitError, match="leave layer out"):
        MtebEncoder(onnx, layer=2, exit=policy)
    with pytest.raises(ExitError, match="one of the exported policies"):
        MtebEncoder(onnx, exit="fast")


def test_what_was_not_exported_is_refused(exported):
    onnx = OnnxModule.as_sentence_transformer(exported)
    with pytest.raises(SizeError, match=r"one of the exported ones, \[2, 3\], got 1"):
        MtebEncoder(onnx, layer=1)
    with pytest.raises(
        SizeError, match="vectors of the same width at every layer in use, got 16 at layer 2 and dim=32"
    ):
        MtebEncoder(onnx, query_layer=2)


def test_fingerprints_are_those_of_the_model_until_something_changes(elastic, leaving, exported, exported_exits):
    onnx = OnnxModule.as_sentence_transformer(exported)
    assert st_plugins.fingerprint(onnx) == st_plugins.fingerprint(elastic)
    assert st_plugins.fingerprint(onnx, layer=2, dim=16) == st_plugins.fingerprint(elastic, layer=2, dim=16)
    assert st_plugins.fingerprint(onnx, precision="int8") == st_plugins.fingerprint(elastic, precision="int8")
    left = OnnxModule.as_sentence_transformer(exported_exits)
    assert st_plugins.fingerprint(left, exit="gate") == st_plugins.fingerprint(leaving, exit="gate")
    found = {st_plugins.fingerprint(onnx, layer=2, dim=dim) for dim in (4, 8, 16)} | {st_plugins.fingerprint(onnx)}
    onnx.prompts = {"query": "other "}
    assert len(found | {st_plugins.fingerprint(onnx)}) == 5
