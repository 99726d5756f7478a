"""Modules for ``SentenceTransformer(modules=[...])``.

The file names here are a file format: saved models name their classes as ``st_plugins.modules.<file>.<Class>``.
"""

from st_plugins.modules.elastic_transformer import ElasticTransformer
from st_plugins.modules.truncation import Truncation

__all__ = ["ElasticTransformer", "Truncation"]
