import math

import numpy as np
import pytest
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

import st_plugins
from conftest import WORDS
from st_plugins.errors import InputError
from st_plugins.evaluation import CompatibilityEvaluator
from st_plugins.evaluation.compatibility import _pair, average_compatibility

TEXTS = [f"{a} {b} {c}" for a in WORDS[:6] for b in WORDS[4:10] for c in ("cat", "the dog ran")]
QUERIES = [f"{text} fast" for text in TEXTS[::7]]


def retrieval():
    corpus = {str(i): text for i, text in enumerate(TEXTS)}
    relevant = {f"q{i}": {str(7 * i)} for i in range(len(QUERIES))}
    return InformationRetrievalEvaluator({f"q{i}": text for i, text in enumerate(QUERIES)}, corpus, relevant)


def by_hand(asking, indexed):
    """nDCG@10 with one right document: 1 / log2(rank + 1)."""
    scores = asking.encode_query(QUERIES) @ indexed.encode_document(TEXTS).T
    total = 0.0
    for i, row in enumerate(scores):
        rank = 1 + sum(score > row[7 * i] for score in row)
        total += 1 / math.log2(rank + 1) if rank <= 10 else 0.0
    return total / len(QUERIES)


@pytest.fixture
def versions(model):
    return [st_plugins.bake(model, layer=layer) for layer in (2, 3, 4)]


def test_every_pair_has_the_score_of_its_queries_on_its_documents(versions):
    versions[0].prompts = {"query": "the red ", "document": "slow "}  # each embeds by its own
    evaluator = CompatibilityEvaluator(retrieval(), versions[:2], name="mine")
    metrics = evaluator(versions[2])
    for i, asking in enumerate(versions):
        for j, indexed in enumerate(versions):
            assert metrics[f"mine_query{i}_document{j}"] == pytest.approx(by_hand(asking, indexed), abs=1e-6)
    matrix = evaluator.matrix
    assert metrics["mine_kept"] == pytest.approx(matrix[2, 0] / matrix[0, 0])
    later = [(1, 0), (2, 0), (2, 1)]
    assert metrics["mine_compatibility"] == pytest.approx(sum(matrix[i, j] > matrix[j, j] for i, j in later) / 3)
    assert evaluator.primary_metric == "mine_compatibility"
    assert len({round(score, 6) for score in matrix.ravel()}) > 4, "scores that differ, or this test shows little"


def test_an_adapter_makes_an_upgrade_answer(versions):
    old, new = versions[0], versions[2]
    adapted = st_plugins.adapt_to_index(new, old, TEXTS)
    without, with_map = (CompatibilityEvaluator(retrieval(), [old])(model)["kept"] for model in (new, adapted))
    assert with_map > without + 0.2


@pytest.mark.parametrize(("matrix", "expected"), [
    ([[0.5, 0], [0.6, 0.7]], 1.0), ([[0.5, 0], [0.5, 0.7]], 0.0), ([[0.5, np.nan], [np.nan, 0.7]], 0.0),
    ([[0.5, 0, 0], [0.6, 0.7, 0], [0.4, 0.8, 0.9]], 2 / 3),
])  # fmt: skip
def test_the_average_counts_pairs_that_gain(matrix, expected):
    assert average_compatibility(np.array(matrix)) == pytest.approx(expected)


def test_widths_that_differ_do_not_compare(model):
    old, new = st_plugins.bake(model, dim=8), st_plugins.bake(model)
    evaluator = CompatibilityEvaluator(retrieval(), [old])
    metrics = evaluator(new)
    assert sorted(metrics) == ["compatibility", "kept", "query0_document0", "query1_document1"]
    assert math.isnan(metrics["kept"])
    assert metrics["compatibility"] == 0
    assert evaluator.table().splitlines()[1].split()[-1] == "-"


def test_the_table_is_in_percent_and_the_card_says_what_was_evaluated(versions):
    evaluator = CompatibilityEvaluator(retrieval(), versions[:1])
    evaluator(versions[2])
    assert evaluator.table().splitlines()[2].split() == ["1", *(f"{100 * score:.1f}" for score in evaluator.matrix[1])]
    assert evaluator.get_config_dict() == {"evaluator": "InformationRetrievalEvaluator", "versions": 1}


def test_one_version_has_nothing_to_be_compatible_with():
    with pytest.raises(InputError, match="versions must hold at least one earlier version"):
        CompatibilityEvaluator(retrieval(), [])


def test_one_text_is_not_taken_for_a_list_of_its_characters(model):
    pair = _pair(model, model, {})
    assert pair.encode_query(["i", "t"]).shape == (2, 16)
    assert pair.encode_query("it").shape == (16,)
