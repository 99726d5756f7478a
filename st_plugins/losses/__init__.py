"""Losses that train one model at many sizes, for the ordinary ``SentenceTransformerTrainer``."""

from st_plugins.losses.elastic import ElasticLoss

__all__ = ["ElasticLoss"]
