"""Evaluators that look at every size of a model."""

from st_plugins.evaluation.grid import ElasticGridEvaluator

__all__ = ["ElasticGridEvaluator"]
