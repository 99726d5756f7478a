"""Evaluators that look at every size or version of a model, and one size as others' benchmarks take it."""

from st_plugins.evaluation.compatibility import CompatibilityEvaluator
from st_plugins.evaluation.grid import ElasticGridEvaluator
from st_plugins.evaluation.mteb_encoder import MtebEncoder

__all__ = ["CompatibilityEvaluator", "ElasticGridEvaluator", "MtebEncoder"]
