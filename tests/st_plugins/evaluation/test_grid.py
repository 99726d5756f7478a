import csv

import numpy as np
import pytest
from sentence_transformers.sentence_transformer import losses as host
from sentence_transformers.sentence_transformer.evaluation import (
    EmbeddingSimilarityEvaluator,
    InformationRetrievalEvaluator,
    TripletEvaluator,
)

import st_plugins
from loss_cases import ANCHORS, POSITIVES
from st_plugins.errors import SizeError, UnsupportedModelError
from st_plugins.evaluation import ElasticGridEvaluator
from trainers import quiet_trainer

GOLD = [0.9, 0.4, 0.6, 0.5, 0.8, 0.7]


def similarity(**options):
    return EmbeddingSimilarityEvaluator(ANCHORS, POSITIVES, GOLD, **options)


def retrieval():
    queries = {str(i): text for i, text in enumerate(ANCHORS)}
    corpus = {str(i): text for i, text in enumerate(POSITIVES)}
    return InformationRetrievalEvaluator(queries, corpus, {key: {key} for key in queries})


def test_each_score_is_that_of_the_baked_size(model):
    evaluator = ElasticGridEvaluator(similarity(), layers=[1, 4], dims=[4, 16])
    metrics = evaluator(model)
    for layer in (1, 4):
        for dim in (4, 16):
            alone = similarity()
            expected = alone(st_plugins.bake(model, layer=layer, dim=dim))[alone.primary_metric]
            assert metrics[f"layer{layer}_dim{dim}"] == pytest.approx(expected, abs=1e-6)
    assert evaluator.primary_metric == "layer4_dim16"


@pytest.mark.parametrize("evaluator", [retrieval(), TripletEvaluator(ANCHORS, POSITIVES, POSITIVES[::-1])])
def test_evaluators_of_other_kinds_work_unchanged(model, evaluator):
    metrics = ElasticGridEvaluator(evaluator, layers=[2, 4], dims=[8])(model)
    assert sorted(metrics) == ["layer2_dim8", "layer4_dim8"]
    assert all(0 <= score <= 1 for score in metrics.values())


def test_queries_may_have_layers_of_their_own(model):
    evaluator = ElasticGridEvaluator(retrieval(), layers=[4], query_layers=[1, 4], dims=[16])
    metrics = evaluator(model)
    assert sorted(metrics) == ["query1_layer4_dim16", "query4_layer4_dim16"]
    shallow = model.encode_query(ANCHORS, layer=1, allow_untrained=True)
    deep = model.encode_document(POSITIVES)
    ranks = (shallow @ deep.T >= np.diagonal(shallow @ deep.T)[:, None]).sum(1)
    assert metrics["query1_layer4_dim16"] == pytest.approx((1 / np.log2(ranks + 1)).mean(), abs=1e-6)
    assert evaluator.primary_metric == "query4_layer4_dim16"


def test_shallow_queries_and_deep_documents_need_no_layer_in_common(model):
    evaluator = ElasticGridEvaluator(retrieval(), layers=[4], query_layers=[1, 2], dims=[16])
    evaluator(model)
    assert evaluator.primary_metric == "query2_layer4_dim16"


def test_a_model_that_is_cut_by_default_is_evaluated_at_every_dim(model):
    expected = ElasticGridEvaluator(similarity(), layers=[2], dims=[4, 16])(model)
    model.truncate_dim = 8
    assert ElasticGridEvaluator(similarity(), layers=[2], dims=[4, 16])(model) == expected
    assert model.truncate_dim == 8


def test_the_model_is_left_as_it_was(model, texts):
    before = model.encode(texts)
    card = dict(model.model_card_data.__dict__)
    ElasticGridEvaluator(similarity(), layers=[1], dims=[4])(model)
    assert np.array_equal(model.encode(texts), before)
    assert model.model_card_data.__dict__ == card
    assert model[0].sizes == []


def test_a_text_is_encoded_once_per_layer(model):
    runs = []
    model[0].model.embeddings.register_forward_hook(lambda module, inputs, output: runs.append(len(output)))
    ElasticGridEvaluator(similarity(), layers=[1, 2, 3], dims=[4, 8, 16])(model)
    assert sum(runs) == 3 * 12


def test_without_layers_and_dims_it_takes_those_trained(model):
    model[0].add_sizes([(2, 8), (3, 4)])
    metrics = ElasticGridEvaluator(similarity())(model)
    assert len(metrics) == 9
    assert {"layer2_dim8", "layer4_dim16", "layer3_dim4"} <= set(metrics)


def test_costs_are_fractions_of_the_deepest_layer(model):
    evaluator = ElasticGridEvaluator(similarity(), layers=[1, 4], dims=[16])
    evaluator(model)
    costs = {point.layer: point.cost for point in evaluator.points}
    assert costs[4] == 1
    assert costs[1] > 0


def test_the_table_has_a_line_per_layer(model):
    evaluator = ElasticGridEvaluator(similarity(), layers=[1, 4], dims=[4, 16])
    evaluator(model)
    head, *lines = evaluator.table().splitlines()
    assert head.split() == ["layer", "dim", "4", "dim", "16"]
    assert [line.split()[0] for line in lines] == ["1", "4"]
    crossed = ElasticGridEvaluator(retrieval(), layers=[4], query_layers=[1, 4], dims=[16])
    crossed(model)
    assert [line.split()[:2] for line in crossed.table().splitlines()[1:]] == [["1,", "4"], ["4,", "4"]]


def test_each_call_adds_to_the_file(model, tmp_path):
    evaluator = ElasticGridEvaluator(similarity(), layers=[1, 4], dims=[16], name="dev")
    for step in (1, 2):
        metrics = evaluator(model, str(tmp_path), epoch=0, steps=step)
    with open(tmp_path / "dev_grid.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["steps"], row["layer"]) for row in rows] == [("1", "1"), ("1", "4"), ("2", "1"), ("2", "4")]
    assert float(rows[-1]["score"]) == metrics["dev_layer4_dim16"]
    assert [file.name for file in tmp_path.iterdir()] == ["dev_grid.csv"]


def test_the_trainer_selects_by_the_primary_size(model, tmp_path):
    loss = st_plugins.losses.ElasticLoss(model, host.MultipleNegativesRankingLoss(model), sizes=[(2, 8)])
    evaluator = ElasticGridEvaluator(similarity(), layers=[2, 4], dims=[8, 16], primary_size=(2, 8), name="dev")
    trainer = quiet_trainer(
        model, loss, tmp_path, evaluator=evaluator, max_steps=1, eval_strategy="steps", eval_steps=1
    )
    trainer.train()
    assert evaluator.primary_metric == "dev_layer2_dim8"
    logged = [entry for entry in trainer.state.log_history if "eval_dev_layer2_dim8" in entry]
    assert logged


def test_a_plain_model_is_refused(plain):
    with pytest.raises(
        UnsupportedModelError, match="an ElasticGridEvaluator must be elastic, got one that starts with Transformer"
    ):
        ElasticGridEvaluator(similarity())(plain)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": [5]}, "layer must be an integer from 1 to 4"),
        ({"layers": [4], "query_layers": [9]}, "layer must be an integer from 1 to 4"),
        ({"dims": [17]}, "dim must be an integer from 1 to 16"),
        ({"layers": [2], "dims": [8], "primary_size": (4, 8)}, r"primary_size must be .* layers \[2\] .* got \(4, 8\)"),
        ({"layers": [2], "query_layers": [3], "primary_size": (2, 16)}, r"primary_size must be one of .* layers \[\]"),
    ],
)
def test_sizes_that_do_not_exist_are_refused(model, options, message):
    with pytest.raises(SizeError, match=message):
        ElasticGridEvaluator(similarity(), **options)(model)


def test_what_the_card_says():
    config = ElasticGridEvaluator(similarity(), layers=[1], dims=[4]).get_config_dict()
    assert config == {"evaluator": "EmbeddingSimilarityEvaluator", "layers": [1], "dims": [4]}
