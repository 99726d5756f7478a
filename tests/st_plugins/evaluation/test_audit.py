import csv

import numpy as np
import pytest
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

from conftest import TEXTS
from st_plugins.errors import InputError
from st_plugins.evaluation import (
    ElasticGridEvaluator,
    RankMeEvaluator,
    TteDepthEvaluator,
    UtilizationEvaluator,
    WeatEvaluator,
)
from st_plugins.evaluation.audit import checked_texts, unit_rows
from trainers import quiet_trainer

MAKERS = {
    "rankme": lambda **options: RankMeEvaluator(TEXTS, **options),
    "tte_depth": lambda **options: TteDepthEvaluator(TEXTS[:3], TEXTS[3:], **options),
    "utilization": lambda **options: UtilizationEvaluator(TEXTS[:3], TEXTS[3:], **options),
    "weat": lambda **options: WeatEvaluator((TEXTS[:2], TEXTS[2:4]), (["cat"], ["dog"]), **options),
}
EACH = pytest.mark.parametrize("kind", MAKERS)


@EACH
def test_it_writes_a_line_with_each_call_as_the_host_does(kind, plain, tmp_path):
    evaluator = MAKERS[kind](name="dev")
    for step in (10, 20):
        metrics = evaluator(plain, str(tmp_path), epoch=1, steps=step)
    assert [file.name for file in tmp_path.iterdir()] == [f"{kind}_evaluation_dev_results.csv"]
    with open(tmp_path / evaluator.csv_file, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["epoch"], row["steps"]) for row in rows] == [("1", "10"), ("1", "20")]
    assert {f"dev_{name}": float(rows[1][name]) for name in evaluator.metrics} == metrics


@EACH
def test_nothing_is_written_where_nothing_is_asked_for(kind, plain, tmp_path):
    MAKERS[kind](write_csv=False)(plain, str(tmp_path))
    evaluator = MAKERS[kind]()
    evaluator(plain)
    assert not list(tmp_path.iterdir())
    assert evaluator.csv_file == f"{kind}_evaluation_results.csv"


@EACH
def test_the_primary_metric_is_among_the_metrics_and_the_card(kind, plain):
    evaluator = MAKERS[kind](name="dev")
    assert evaluator.primary_metric == evaluator.metrics[0]
    metrics = evaluator(plain)
    assert evaluator(plain) == metrics, "and a second call says the same"
    assert np.isfinite(metrics[evaluator.primary_metric])
    assert evaluator.primary_metric.startswith("dev_")
    assert plain.model_card_data.eval_results_dict[evaluator] == metrics
    assert evaluator.get_config_dict()
    assert evaluator.greater_is_better == (kind in ("rankme", "tte_depth"))


@EACH
def test_batches_change_nothing(kind, plain):
    one, many = (MAKERS[kind](batch_size=size)(plain) for size in (1, 32))
    assert one == pytest.approx(many, abs=1e-5)


def test_the_trainer_selects_by_it(plain, tmp_path):
    evaluator = RankMeEvaluator(TEXTS, name="dev")
    loss = MultipleNegativesRankingLoss(plain)
    trainer = quiet_trainer(
        plain, loss, tmp_path, evaluator=evaluator, max_steps=1, eval_strategy="steps", eval_steps=1
    )
    trainer.train()
    assert any("eval_dev_rankme" in entry for entry in trainer.state.log_history)


def test_a_grid_asks_it_at_every_size(model):
    grid = ElasticGridEvaluator(RankMeEvaluator(TEXTS), layers=[1, 4], dims=[4, 16])
    metrics = grid(model)
    expected = RankMeEvaluator(TEXTS)(model)["rankme"]
    assert metrics["layer4_dim16"] == pytest.approx(expected)
    assert len({round(score, 4) for score in metrics.values()}) == 4


def test_rows_of_any_length_become_units():
    found = unit_rows(np.array([[3, 4], [0, 0], [1e-100, 0]]))
    assert found.tolist() == [[0.6, 0.8], [0, 0], [1, 0]]


def test_texts_that_are_none_are_refused():
    with pytest.raises(InputError, match="reference must be a sequence of texts, got str"):
        checked_texts("reference", "abc", 1)
    with pytest.raises(InputError, match="reference must be a sequence of texts, got list"):
        checked_texts("reference", [1, 2], 1)
    with pytest.raises(InputError, match="reference must hold at least 2 texts, got 1"):
        checked_texts("reference", ["a"], 2)
