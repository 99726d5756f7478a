import copy
import csv
import gzip
import os
import sys
from pathlib import Path

import mteb
import numpy as np
import pytest
import torch
from datasets import Dataset
from mteb.models.abs_encoder import get_prompt
from mteb.types import PromptType
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator
from torch.utils.data import DataLoader

import reference
import st_plugins
from loss_cases import ANCHORS, POSITIVES
from mteb_tasks import RELEVANT, Search, Similarity
from st_plugins.errors import ExitError, MissingExtraError, SizeError, UnsupportedModelError, UntrainedSizeError
from st_plugins.evaluation import MtebEncoder
from st_plugins.exit_criteria import Saturation
from st_plugins.exit_policies import ExitPolicy

GOLD = [4.5, 2.0, 3.0, 2.5, 4.0, 3.5]
ROOT = Path(__file__).parents[3]
DATA = Path(os.environ.get("ST_PLUGINS_DATA", ROOT.parent / "shared" / "data"))


def score(encoder, task, cache=None):
    result = mteb.evaluate(encoder, task, cache=cache, show_progress_bar=False)
    return result.task_results[0].get_score()


def search_score(queries, documents):
    """Mean nDCG@10 of unit vectors."""
    values = []
    for query, relevant in zip(queries.tolist(), RELEVANT.values(), strict=True):
        scores = [reference.dot(query, document) for document in documents.tolist()]
        assert len({round(value, 5) for value in scores}) == len(scores), "the order of equal scores is arbitrary"
        values.append(reference.ndcg(scores, [relevant.get(f"d{i}", 0) for i in range(len(scores))], 10))
    return sum(values) / len(values)


@pytest.mark.parametrize("size", [(1, 4), (3, 16), (4, 8), (4, 16)])
def test_a_similarity_task_scores_the_vectors_of_that_size(model, size):
    layer, dim = size
    first, second = (
        model.encode(texts, layer=layer, truncate_dim=dim, allow_untrained=True).tolist()
        for texts in (ANCHORS, POSITIVES)
    )
    expected = reference.spearman([reference.dot(a, b) for a, b in zip(first, second, strict=True)], GOLD)
    encoder = MtebEncoder(model, layer, dim, allow_untrained=True)
    assert score(encoder, Similarity(ANCHORS, POSITIVES, GOLD)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("query_layer", [None, 1, 4])
def test_a_retrieval_task_scores_queries_and_documents_at_their_own_layers(model, query_layer):
    model.prompts = {"query": "the red ", "document": "a "}
    encoder = MtebEncoder(model, 3, 4, query_layer, allow_untrained=True)
    size = {"truncate_dim": 4, "allow_untrained": True}
    queries = model.encode_query(ANCHORS[: len(RELEVANT)], layer=query_layer or 3, **size)
    documents = model.encode_document(POSITIVES, layer=3, **size)
    assert score(encoder, Search()) == pytest.approx(search_score(queries, documents), abs=1e-5)


def test_each_layer_of_the_queries_has_a_score_of_its_own(model):
    encoders = [MtebEncoder(model, 3, 4, layer, allow_untrained=True) for layer in (1, 3, 4)]
    assert len({score(encoder, Search()) for encoder in encoders}) == 3


def test_the_measures_of_the_reference_by_hand():
    # Golden: the second best of three documents first, then the best: (1 + 2 / log2(3)) / (2 + 1 / log2(3)).
    assert reference.ndcg([0.9, 0.8, 0.1], [1, 2, 0], 10) == pytest.approx(0.8597187, abs=1e-6)
    assert reference.ndcg([0.9, 0.8, 0.1], [1, 2, 0], 1) == 0.5
    assert reference.spearman([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx(0.8)
    assert reference.ranks([5, 1, 5]) == [2.5, 1, 2.5]


# What its constructor calls of itself and of sentence-transformers is deprecated.
@pytest.mark.filterwarnings("ignore:The fill_missing parameter is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The `get_sentence_embedding_dimension` method:FutureWarning")
@pytest.mark.parametrize("prompts", [
    {"query": "the ", "document": "a red "}, {"STS": "it ", "query": "", "document": ""},
    {"STS-query": "fast ", "query": "the ", "document": "blue "},
])  # fmt: skip
@pytest.mark.parametrize("prompt_type", [None, PromptType.query, PromptType.document])
def test_at_full_size_it_is_mtebs_own_treatment_of_the_plain_model(plain, texts, prompts, prompt_type):
    plain.prompts = dict(prompts)
    batches = DataLoader(Dataset.from_dict({"text": texts}), batch_size=2)
    task = {"task_metadata": Similarity.metadata, "hf_split": "test", "hf_subset": "default"}
    theirs = mteb.SentenceTransformerEncoderWrapper(copy.deepcopy(plain))
    ours = MtebEncoder(st_plugins.elastic(plain))
    arguments = {**task, "prompt_type": prompt_type, "batch_size": 3}
    expected, got = theirs.encode(batches, **arguments), ours.encode(batches, **arguments)
    assert np.allclose(got, expected, atol=1e-6)
    prompted = bool(get_prompt(prompts, Similarity.metadata, prompt_type))
    assert np.allclose(got, plain.encode(texts), atol=1e-3) != prompted
    for method in ("similarity", "similarity_pairwise"):
        assert torch.allclose(getattr(ours, method)(got, got), getattr(theirs, method)(expected, expected), atol=1e-6)


def test_the_host_is_told_queries_from_documents(model, texts, monkeypatch):
    encoder = MtebEncoder(model, layer=3, dim=8, query_layer=2, allow_untrained=True)
    calls = []
    monkeypatch.setattr(model, "encode", lambda inputs, **arguments: calls.append((inputs, arguments)))
    for prompt_type in (PromptType.query, PromptType.document, None):
        encoder.encode(
            [{"text": texts[:2]}, {"text": texts[2:]}],
            task_metadata=Search.metadata,
            hf_split="test",
            hf_subset="default",
            prompt_type=prompt_type,
            batch_size=7,
        )
    assert [inputs for inputs, _ in calls] == [texts] * 3
    # Modules such as Router choose their way by it.
    assert [arguments.get("task") for _, arguments in calls] == ["query", "document", None]
    assert [arguments["layer"] for _, arguments in calls] == [2, 3, 3]
    assert {arguments["truncate_dim"] for _, arguments in calls} == {8}
    assert {arguments["batch_size"] for _, arguments in calls} == {7}


def test_similarity_is_the_models_own(plain):
    plain.similarity_fn_name = "euclidean"
    encoder = MtebEncoder(st_plugins.elastic(plain))
    rows = np.array([[0.0, 0.0], [3.0, 4.0]], dtype=np.float32)
    assert encoder.similarity(rows, rows).tolist() == [[0.0, -5.0], [-5.0, 0.0]]
    assert encoder.similarity_pairwise(rows, rows[::-1].copy()).tolist() == [-5.0, -5.0]
    assert encoder.mteb_model_meta.similarity_fn_name == "euclidean"


def test_it_satisfies_the_protocol_of_mteb(model):
    assert isinstance(MtebEncoder(model), mteb.EncoderProtocol)
    assert not isinstance(MtebEncoder(model), mteb.CrossEncoderProtocol)


@pytest.mark.parametrize(("size", "suffix"), [
    ({}, "@4x16"), ({"layer": 3}, "@3x16"), ({"layer": 3, "dim": 8, "query_layer": 1}, "@3x8-query1"),
    ({"dim": 8, "query_layer": 4}, "@4x8"), ({"layer": 1, "query_layer": 2}, "@1x16-query2"),
])  # fmt: skip
def test_the_metadata_describe_the_size(model, size, suffix):
    model.max_seq_length = 20
    encoder = MtebEncoder(model, **size, allow_untrained=True, name="me/tiny")
    meta = encoder.mteb_model_meta
    layer, dim = size.get("layer", 4), size.get("dim", 16)
    assert meta.name == f"me/tiny{suffix}"
    assert meta.revision == st_plugins.fingerprint(model, layer=layer, dim=dim)[:16]
    baked = st_plugins.bake(model, layer=max(layer, size.get("query_layer", 0)))
    assert meta.n_parameters == sum(parameter.numel() for parameter in baked.parameters())
    assert (meta.embed_dim, meta.max_tokens, meta.similarity_fn_name) == (dim, 20, "cosine")
    assert meta.framework == ["Sentence Transformers", "PyTorch"]


def test_the_metadata_can_be_written_and_read(model):
    meta = MtebEncoder(model).mteb_model_meta
    assert type(meta).model_validate_json(meta.model_dump_json()) == meta


def test_without_a_dim_it_has_the_models_own_width(model, texts):
    model.truncate_dim = 4
    encoder = MtebEncoder(model, allow_untrained=True)
    assert encoder.mteb_model_meta.embed_dim == 4
    assert MtebEncoder(model, dim=16).mteb_model_meta.embed_dim == 16


def test_the_name_is_where_the_model_came_from_but_not_its_path(model, tmp_path, monkeypatch):
    model.save_pretrained(str(tmp_path / "minilm-elastic"))
    loaded = st_plugins.load(tmp_path / "minilm-elastic", device="cpu")
    assert MtebEncoder(loaded).mteb_model_meta.name == "local/minilm-elastic@4x16"
    assert MtebEncoder(loaded, name="mine").mteb_model_meta.name == "local/mine@4x16"
    assert MtebEncoder(loaded, name="me/mine").mteb_model_meta.name == "me/mine@4x16"
    monkeypatch.chdir(tmp_path)
    for origin, name in (
        ("org/model", "org/model"), ("./model", "local/model"), ("/model", "local/model"), ("", "local/model"),
        (f"{tmp_path.name}/minilm-elastic", f"{tmp_path.name}/minilm-elastic"), ("a/b/c", "local/c"),
    ):  # fmt: skip
        loaded[0].model.name_or_path = origin
        assert MtebEncoder(loaded).mteb_model_meta.name == f"{name}@4x16"
    (tmp_path / "org" / "model").mkdir(parents=True)
    loaded[0].model.name_or_path = "org/model"
    assert MtebEncoder(loaded).mteb_model_meta.name == "local/model@4x16"


def test_the_cache_of_results_keeps_sizes_and_weights_apart(model, tmp_path):
    cache, task = mteb.ResultCache(tmp_path), Similarity(ANCHORS, POSITIVES, GOLD)
    encoder, small = MtebEncoder(model), MtebEncoder(model, 1, 4, allow_untrained=True)
    before = score(encoder, task, cache)
    assert score(small, task, cache) == score(small, task)
    # A second evaluation reads what the first one wrote: nothing is encoded.
    encoder.encode = None
    assert score(encoder, task, cache) == pytest.approx(before, abs=1e-6)
    del encoder.encode
    torch.nn.init.normal_(model[0].model.encoder.layer[0].output.dense.weight)
    after = score(encoder, task)
    assert abs(after - before) > 1e-3
    assert score(encoder, task, cache) == pytest.approx(after, abs=1e-6)
    assert len(list(tmp_path.rglob("TinySimilarity.json"))) == 3


@pytest.mark.slow
@pytest.mark.parametrize("size", [(6, 384), (3, 128)])
def test_a_real_task_scores_as_sentence_transformers_does(minilm, size):
    file = DATA / "stsb" / "dev.tsv.gz"
    if not file.exists():
        pytest.skip(f"the STS benchmark is not there: {file}. Set ST_PLUGINS_DATA to the folder that holds stsb")
    with gzip.open(file, "rt", encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))[:200]
    assert len(rows) == 200
    first, second = ([row[key] for row in rows] for key in ("sentence1", "sentence2"))
    gold = [float(row["score"]) for row in rows]
    model = st_plugins.elastic(minilm)
    encoder = MtebEncoder(model, *size, allow_untrained=True)
    evaluator = EmbeddingSimilarityEvaluator(first, second, gold)
    expected = evaluator(st_plugins.bake(model, layer=size[0], dim=size[1]))[evaluator.primary_metric]
    assert score(encoder, Similarity(first, second, gold)) == pytest.approx(expected, abs=1e-4)
    assert expected > 0.4


@pytest.mark.parametrize(("size", "text"), [
    ({"layer": 5}, "layer must be an integer from 1 to 4"), ({"layer": 0}, "layer must be an integer from 1 to 4"),
    ({"query_layer": 5}, "layer must be an integer from 1 to 4.*got 5"),
    ({"dim": 17}, r"dim must be an integer from 1 to 16 \(the embedding dimension\), got 17\."),
    ({"dim": 0}, "dim must be an integer from 1 to 16.*got 0"), ({"dim": True}, "from 1 to 16.*got True"),
    ({"dim": 8.0}, "from 1 to 16.*got 8.0"),
])  # fmt: skip
def test_a_size_that_does_not_exist_is_refused(model, size, text):
    with pytest.raises(SizeError, match=text):
        MtebEncoder(model, **size, allow_untrained=True)


def test_texts_leave_by_a_policy(plain, texts):
    model = st_plugins.elastic(plain, sizes=[(1, 16), (3, 16)])
    model[0].add_exit_policy(ExitPolicy("early", Saturation(), -0.9, (1, 3, 4)))
    encoder = MtebEncoder(model, exit="early")
    assert encoder.mteb_model_meta.name.endswith("@4x16-exit-early")
    assert encoder.mteb_model_meta.revision == st_plugins.fingerprint(model, exit="early")[:16]
    task = {"task_metadata": Similarity.metadata, "hf_split": "test", "hf_subset": "default"}
    got = encoder.encode([{"text": texts}], **task)
    assert np.allclose(got, model.encode(texts, layer=3), atol=1e-6)
    assert not np.allclose(got, model.encode(texts), atol=1e-3)
    at_most = MtebEncoder(model, exit="early", layer=1).encode([{"text": texts}], **task)
    assert np.allclose(at_most, model.encode(texts, layer=1), atol=1e-6)


def test_an_exit_that_does_not_exist_is_refused_before_any_task(plain):
    with pytest.raises(ExitError, match=r"exit must be the name of a policy of this model, \[\], got 'fast'"):
        MtebEncoder(st_plugins.elastic(plain), exit="fast")
    with pytest.raises(UntrainedSizeError, match="exit needs a model trained at layers below 4"):
        MtebEncoder(st_plugins.elastic(plain), exit=0.5)


def test_an_untrained_size_is_refused_before_any_task(plain):
    model = st_plugins.elastic(plain, sizes=[(3, 8)])
    assert MtebEncoder(model, 3, 8).mteb_model_meta.embed_dim == 8
    for size in ({"layer": 2}, {"layer": 3, "query_layer": 2}, {"layer": 2, "query_layer": 3}):
        with pytest.raises(UntrainedSizeError, match=r"layer must be one the model was trained for, \[3, 4\], got 2"):
            MtebEncoder(model, **size)
        assert MtebEncoder(model, **size, allow_untrained=True)
    for size in ({"layer": 3, "dim": 4}, {"dim": 4}, {"query_layer": 3, "dim": 4}):
        with pytest.raises(UntrainedSizeError, match="truncate_dim must be a dim the model was trained for"):
            MtebEncoder(model, **size)


def test_a_plain_model_is_refused(plain):
    assert isinstance(plain, SentenceTransformer)
    with pytest.raises(
        UnsupportedModelError, match="model for an MtebEncoder must be elastic, got .* starts with Transformer.*elastic"
    ):
        MtebEncoder(plain)


def test_without_mteb_it_says_what_to_install(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "mteb", None)
    with pytest.raises(MissingExtraError, match=r"'mteb'.* pip install 'st-plugins\[mteb\]'"):
        MtebEncoder(model)
