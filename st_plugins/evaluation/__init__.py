"""Evaluators of every size or version of a model, of embeddings without labels, and of one size as mteb takes it."""

from st_plugins.evaluation.compatibility import CompatibilityEvaluator
from st_plugins.evaluation.direct_bias import DirectBiasEvaluator, indirect_bias
from st_plugins.evaluation.grid import ElasticGridEvaluator
from st_plugins.evaluation.model_cards import write_model_card
from st_plugins.evaluation.mteb_encoder import MtebEncoder
from st_plugins.evaluation.rank_me import RankMeEvaluator
from st_plugins.evaluation.report_page import write_report_page
from st_plugins.evaluation.tte_depth import TteDepthEvaluator
from st_plugins.evaluation.utilization import UtilizationEvaluator
from st_plugins.evaluation.weat import WeatEvaluator

__all__ = [
    "CompatibilityEvaluator",
    "DirectBiasEvaluator",
    "ElasticGridEvaluator",
    "MtebEncoder",
    "RankMeEvaluator",
    "TteDepthEvaluator",
    "UtilizationEvaluator",
    "WeatEvaluator",
    "indirect_bias",
    "write_model_card",
    "write_report_page",
]
