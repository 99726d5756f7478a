"""Embeds files of any length: shard by shard, resumable, on one machine or on many."""

from st_plugins.bulk.embedder import BulkEmbedder, EmbeddedTexts
from st_plugins.bulk.embedding_jobs import embed_files
from st_plugins.bulk.job_folders import BulkReport
from st_plugins.bulk.settings import JobSettings

__all__ = ["BulkEmbedder", "BulkReport", "EmbeddedTexts", "JobSettings", "embed_files"]
